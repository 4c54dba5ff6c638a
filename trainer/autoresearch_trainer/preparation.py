"""What happens before a candidate starts: its folders, its source, and how fast its core is right now."""

import hashlib
import os
import shutil
import stat
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

_REFERENCE_SIZE = 512
_REFERENCE_ROUNDS = 9


class SourceError(Exception):
    """The candidate's files cannot be run as they are; str() says which and why."""


class TrialFolders:
    """The folders of one trial under its workDir. Only run and tmp are open to the candidate."""

    def __init__(self, work_dir: Path) -> None:
        self.run_dir = work_dir / "run"
        """A copy of the candidate's files; its working directory."""
        self.temporary = work_dir / "tmp"
        """Its HOME, TMPDIR and caches."""
        self.artifact = work_dir / "artifact"
        """What it handed over; written by the gate, read by the judge."""

    def make(self, source_dir: Path, script: str) -> str:
        """Makes the folders anew and copies the source; the SHA-256 over names and contents of its files.

        Raises SourceError for a link or another special file: a link could carry a private file into the candidate's
        reach.
        """
        self.remove()
        for folder in (self.run_dir, self.temporary, self.artifact):
            folder.mkdir(parents=True)
        digest = hashlib.sha256()
        for path in sorted(source_dir.rglob("*")):
            name = path.relative_to(source_dir)
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                (self.run_dir / name).mkdir()
            elif stat.S_ISREG(mode):
                content = path.read_bytes()
                (self.run_dir / name).write_bytes(content)
                digest.update(f"{name.as_posix()}\0{len(content)}\0".encode() + content)
            else:
                raise SourceError(f"{name} is a link or a special file: a candidate may hold regular files only.")
        if not (self.run_dir / script).is_file():
            raise SourceError(f"{script} is not among the candidate's files.")
        return digest.hexdigest()

    def remove(self) -> None:
        """Removes the folders with everything in them."""
        for folder in (self.run_dir, self.temporary, self.artifact):
            _remove_tree(folder)


def _remove_tree(folder: Path) -> None:
    """As shutil.rmtree, for trees of any depth: it is the candidate that chose the depth."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except (RecursionError, OSError):
        _flatten(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _flatten(folder: Path) -> None:
    """Moves folders from deep inside up to folder, so that no path in it is long."""
    count = 0
    pending = [folder]
    while pending:
        for entry in list(os.scandir(pending.pop())):
            if not entry.is_dir(follow_symlinks=False):
                continue
            path = Path(entry.path)
            if path.parent != folder:
                target = folder / f".flat{count}"
                count += 1
                path.rename(target)
                path = target
            pending.append(path)


def reference_seconds(threads: int) -> float | None:
    """CPU seconds of one 512 x 512 x 512 float32 matrix product, the best of several; None when it could not be
    measured.

    PyTorch multiplies where it is loaded already, else NumPy, which is there in a tenth of the time; the two are not to
    be compared. Taken in a process of its own: a numeric library may start threads, and the caller must stay without
    any to fork safely.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(write, struct.pack("<d", _measure(threads)))
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        data = stream.read(8)
    os.waitpid(child, 0)
    return struct.unpack("<d", data)[0] if len(data) == 8 else None


def _measure(threads: int) -> float:
    multiply = _product(threads)
    times = []
    for _ in range(_REFERENCE_ROUNDS + 1):
        began = time.process_time()
        multiply()
        times.append(time.process_time() - began)
    # The first round sets the library up. A neighbour's burst makes single rounds slow and none of them fast.
    return min(times[1:])


def _product(threads: int) -> Callable[[], object]:
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)
        matrix = torch.ones(_REFERENCE_SIZE, _REFERENCE_SIZE)
        return lambda: torch.mm(matrix, matrix)
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)
    import numpy as np

    array = np.ones((_REFERENCE_SIZE, _REFERENCE_SIZE), dtype=np.float32)
    return lambda: np.matmul(array, array)
