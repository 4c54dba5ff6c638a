"""The demo corpus: the text of Python's own library, which every machine that runs this has on its disk."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

from . import build
from .build import Recipe, Say
from .corpus import Document, assign_splits
from .errors import DataError
from .files import cache_root
from .manifest import Manifest

VOCAB_SIZE = 1024
"""BPE beat bytes by 0.35-0.9 bits at equal time on a CPU, and 2048 tokens lost to 1024 (a larger output layer)."""
MAX_SEQ_LEN = 128
EVAL_BATCH = 64
LICENCE = "PSF-2.0 (the library text of this machine's Python; it never leaves this machine)"

_LEFT_OUT = frozenset(
    (
        *("test", "tests", "idle_test", "idlelib", "encodings", "lib2to3", "tkinter", "turtledemo", "pydoc_data"),
        *("ensurepip", "distutils", "site-packages", "dist-packages", "__pycache__", "lib-dynload", "__phello__"),
    )
)
"""Folders that not every installation has, that differ between distributors, or that are tables rather than text."""

_MACHINE_FILES = ("_sysconfigdata", "_sysconfig", "sitecustomize", "usercustomize")
_LEAST_BYTES = 2_000_000


def read_library(folder: Path | None = None) -> list[Document]:
    """The library's modules as documents named by their path in it. Raises DataError when it is too small or zipped."""
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    documents = []
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if _LEFT_OUT & set(inside.parts) or inside.parts[0].startswith("config-") or path.is_symlink():
            continue
        if path.name.startswith(_MACHINE_FILES):
            continue
        try:
            text = path.read_bytes().decode()
        except (UnicodeDecodeError, OSError):
            continue  # a few modules declare another encoding on purpose; the text is only a corpus
        if text.strip():
            documents.append(Document(inside.as_posix(), text.replace("\r\n", "\n")))
    size = sum(len(document.text) for document in documents)
    if size < _LEAST_BYTES:
        raise DataError(
            f"Python's library in {root} has only {size} characters of source text (this Python may be packed in a "
            "zip): give text of your own with --text FILES"
        )
    return documents


def prepare(
    target: Path | None,
    say: Say,
    *,
    vocab_size: int = VOCAB_SIZE,
    max_seq_len: int = MAX_SEQ_LEN,
    eval_batch: int = EVAL_BATCH,
    library: Path | None = None,
) -> tuple[Path, Manifest]:
    """Builds the demo data set, in 2-3 s, or finds it built; gives its folder and manifest."""
    documents = read_library(library)
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{document.name}\0{hashlib.sha256(document.text.encode()).hexdigest()}\n".encode())
    recipe = Recipe("demo", LICENCE, vocab_size, max_seq_len, eval_batch, digest.hexdigest())
    folder = target or cache_root() / "data" / recipe.folder_name()
    return folder, build.prepare(assign_splits(documents), recipe, folder, say)
