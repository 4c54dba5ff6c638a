#!/usr/bin/env python3
"""Takes CUDA's libraries out of an installed torch, for an image whose nodes have no GPU (VARIANT=cpu).

PyPI has one torch for x86-64, the CUDA build: 5 GB of which a CPU uses 1. torch's own libraries are linked against
CUDA's, so the files cannot simply go. Each is replaced by a small library of the same name that has the same versioned
symbols; every function in it ends the process with a sentence. What is only loaded when a GPU is there is deleted.

Usage, inside the environment to shrink: image_without_cuda.py [SITE_PACKAGES]. Needs gcc, ld and readelf.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Smaller files stay: their place in the image is not worth a stub.
KEEP_BELOW_BYTES = 4 << 20
SYMBOL = re.compile(
    r"^\s*\d+: [0-9a-f]+\s+(?P<size>\S+) (?P<type>\S+)\s+(?:GLOBAL|WEAK|UNIQUE)\s+\S+"
    r"\s+(?P<section>\S+) (?P<name>\S+)"
)
STUB = """
#include <stdlib.h>
#include <unistd.h>
__attribute__((visibility("hidden"))) void autoresearch_no_cuda(void) {
    static const char said[] = "This image was made without CUDA (VARIANT=cpu): GPUs need the ordinary one.\\n";
    if (write(2, said, sizeof said - 1) < 0) { }
    abort();
}
"""


def main(arguments: list[str]) -> int:
    """Shrinks the environment and prints what came off; 0, or 1 with a sentence when torch no longer imports."""
    packages = Path(arguments[0] if arguments else sysconfig.get_path("platlib"))
    before = _bytes(packages)
    needed = set(_needed(packages / "torch" / "lib"))
    for library in sorted(packages.glob("nvidia/**/lib/*.so*")):
        if library.is_symlink() or library.stat().st_size < KEEP_BELOW_BYTES:
            continue
        if library.name in needed:
            _replace(library)
        else:
            library.unlink()
    for folder in (packages / "triton", *packages.glob("nvidia/**/include"), *packages.glob("nvidia/**/bin")):
        shutil.rmtree(folder, ignore_errors=True)
    for archive in (*packages.glob("nvidia/**/*.a"), *packages.glob("nvidia/**/*.bc")):
        archive.unlink()
    probe = "import torch; torch.nn.functional.scaled_dot_product_attention(*[torch.ones(1, 1, 4, 8)] * 3)"
    if subprocess.run([sys.executable, "-c", probe], check=False).returncode != 0:
        print("image_without_cuda: torch does not import without CUDA's libraries: build VARIANT=cuda", file=sys.stderr)
        return 1
    print(f"image_without_cuda: {before >> 20} MiB before, {_bytes(packages) >> 20} MiB after")
    return 0


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _needed(folder: Path) -> Iterator[str]:
    """Names of the libraries that torch's own ask the dynamic linker for."""
    for library in folder.glob("*.so*"):
        listed = subprocess.run(["readelf", "-dW", str(library)], capture_output=True, text=True, check=True).stdout
        yield from re.findall(r"\(NEEDED\)\s+Shared library: \[([^\]]+)\]", listed)


def _replace(library: Path) -> None:
    """Puts a library of the same name, symbols and symbol versions in the place of this one."""
    listed = subprocess.run(["readelf", "--dyn-syms", "-W", str(library)], capture_output=True, text=True, check=True)
    # The note says that no executable stack is wanted: kernels refuse to load libraries that leave it open.
    assembly = ['.section .note.GNU-stack,"",@progbits', ".text", "autoresearch_stub: jmp autoresearch_no_cuda"]
    versions: dict[str, None] = {}
    for number, line in enumerate(listed.stdout.splitlines()):
        found = SYMBOL.match(line)
        if found is None or found["section"] in ("UND", "ABS"):
            continue
        name, _, version = found["name"].replace("@@", "@").partition("@")
        if version:
            versions[version] = None
        # Versioned symbols get a local alias; the version is attached to that.
        label = f"autoresearch_stub_{number}" if version else name
        if found["type"] in ("FUNC", "IFUNC", "NOTYPE"):
            assembly += [f'.globl "{label}"', f'.type "{label}", @function', f'.set "{label}", autoresearch_stub']
        else:
            size = int(found["size"], 0)
            assembly += [".bss", ".balign 64", f'.globl "{label}"', f'.type "{label}", @object']
            assembly += [f'.size "{label}", {size}', f'"{label}": .zero {max(size, 1)}', ".text"]
        if version:
            separator = "@@" if "@@" in found["name"] else "@"
            assembly.append(f'.symver "{label}", {name}{separator}{version}')
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "abort.c").write_text(STUB)
        (work / "stubs.s").write_text("\n".join(assembly) + "\n")
        (work / "versions").write_text("".join(f"{name} {{ }};\n" for name in versions) or "{ global: *; };\n")
        built = work / "stub.so"
        sources = [str(work / "abort.c"), str(work / "stubs.s")]
        named = [f"-Wl,-soname,{library.name}", f"-Wl,--version-script={work / 'versions'}"]
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-s", *named, "-o", str(built), *sources], check=True)
        library.unlink()
        shutil.copyfile(built, library)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
