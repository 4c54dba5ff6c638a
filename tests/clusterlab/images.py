"""Container images for the test node: our own tiny one, and the project's two built by scripts/images."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from clusterlab import tools
from clusterlab.node_config import PAUSE_IMAGE

ROOT = Path(__file__).resolve().parents[2]
PROBE = Path(__file__).resolve().parent / "node_probe" / "main.go"


@dataclass(frozen=True)
class Image:
    """An image as a tar that a node imports. `digest`: of its configuration, so it names the content."""

    name: str
    digest: str
    archive: Path


def probe() -> Image:
    """The static program of node_probe as an image: every pod's sandbox, and small pods of the tests.

    Built once a machine and version of its source. Raises ToolsMissing without Go, or when it does not compile.
    """
    key = hashlib.sha256(PROBE.read_bytes()).hexdigest()[:16]
    archive = tools.cache().parent / "images" / f"probe-{key}.tar"
    if not archive.is_file():
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            program = Path(scratch, "probe")
            built = subprocess.run(
                [tools.go(), "build", "-trimpath", "-ldflags", "-s -w", "-o", str(program), str(PROBE)],
                env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"},
                capture_output=True,
                text=True,
                check=False,
            )
            if built.returncode != 0:
                raise tools.ToolsMissing(f"{PROBE} does not compile: {built.stderr.strip()}")
            partial = archive.with_suffix(f".{os.getpid()}")
            _pack(PAUSE_IMAGE, program, partial)
            partial.rename(archive)
    with tarfile.open(archive) as opened:
        manifest = opened.extractfile("manifest.json")
        assert manifest is not None
        digest = json.load(manifest)[0]["Config"].removesuffix(".json")
    return Image(PAUSE_IMAGE, f"sha256:{digest}", archive)


def project(*, registry: str = "localhost", tag: str = "test", variant: str = "cpu") -> dict[str, Image]:
    """The project's images, "operator" and "trainer", built on a base made from packages.

    Minutes the first time, seconds when only our code changed. The archives lie in the user's cache, one of each; a
    build whose digest is the archive's own does not write it again. Raises ToolsMissing with the build's last words.
    """
    folder = tools.cache().parent / "images"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "scripts" / "build_images.py"), "--local-base", "--variant", variant]
    command += ["--registry", registry, "--tag", tag, "--save", str(folder), "--store", str(folder / "store")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        tail = "\n".join(built.stderr.strip().splitlines()[-15:])
        raise tools.ToolsMissing(f"the images could not be built; last words of scripts/images:\n{tail}")
    result = json.loads(built.stdout)
    return {name: Image(one["image"], one["digest"], Path(one["archive"])) for name, one in result.items()}


def _pack(name: str, program: Path, target: Path) -> None:
    """Writes `program` as an image of one layer, in the format of `docker save`."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(program, "probe", filter=_owned_by_root)
    config = json.dumps(
        {
            "architecture": _architecture(),
            "os": "linux",
            "config": {"Entrypoint": ["/probe"], "Cmd": ["pause"], "User": "65532:65532"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]},
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(target, "w") as tar:
        for path, data in (("layer.tar", layer.getvalue()), (config_name, config), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755
    return entry


def _architecture() -> str:
    """The machine's name in the words of the image format."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
