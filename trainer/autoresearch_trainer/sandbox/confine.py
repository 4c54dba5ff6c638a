"""The walls put together: what a candidate and what the judge may reach.

Order matters. no_new_privs first, because Landlock and seccomp ask for it; Landlock before seccomp, whose filter
refuses the calls that would undo it; capabilities last, since a mount or a limit may need one.
"""

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

from . import kernel, landlock, limits, namespace, seccomp

_SYSTEM_READ_EXECUTE = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/opt/nvidia", "/nix/store")
_SYSTEM_READ = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/mime.types",
    "/proc",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/kernel/mm/transparent_hugepage",
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom", "/dev/random")
_CUDA_READ = ("/sys", "/etc/nvidia", "/run/nvidia-persistenced", "/usr/local/cuda")
_CUDA_DEVICE_PREFIX = "nvidia"
_RANKS_READ = ("/sys", "/etc/hosts", "/etc/hostname", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf")
"""What gloo and NCCL look at to find each other: network interfaces, the buses behind them, this machine's own name."""


def python_folders() -> list[Path]:
    """Where this interpreter, its packages and this distribution's code lie; real paths, parents first."""
    folders = {
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(sys.exec_prefix),
        Path(sys.executable).resolve().parent.parent,
    }
    folders.add(Path(__file__).resolve().parent.parent)
    folders |= {Path(entry) for entry in sys.path if entry and ("site-packages" in entry or "dist-packages" in entry)}
    for distribution in importlib.metadata.distributions(name="autoresearch-trainer"):
        text = distribution.read_text("direct_url.json")
        if text:
            folders.add(Path(unquote(urlparse(json.loads(text).get("url", "")).path)) / "autoresearch_trainer")
    resolved = sorted({folder.resolve() for folder in folders if folder.is_dir()})
    return [
        folder for folder in resolved if not any(folder != other and folder.is_relative_to(other) for other in resolved)
    ]


def readable_by_everyone(path: Path) -> Path | None:
    """The folder that every candidate may read and that holds path; None when path is private."""
    real = path.resolve()
    shared = [*python_folders(), *(Path(folder).resolve() for folder in (*_SYSTEM_READ_EXECUTE, *_SYSTEM_READ))]
    return next((folder for folder in shared if real.is_relative_to(folder)), None)


def _rules(device: str) -> list[tuple[Path, int]]:
    version = landlock.abi()
    rules = [(folder, landlock.READ_EXECUTE) for folder in python_folders()]
    # A Python that is started inside looks its packages up by listing the folder they lie in.
    rules.append((Path(__file__).resolve().parent.parent.parent, landlock.READ_DIR))
    rules += [(Path(folder), landlock.READ_EXECUTE) for folder in _SYSTEM_READ_EXECUTE]
    rules += [(Path(path), landlock.READ) for path in _SYSTEM_READ]
    rules += [(Path(path), landlock.device_rights(version)) for path in _DEVICES]
    if device.startswith("cuda"):
        rules += [(Path(path), landlock.READ) for path in _CUDA_READ]
        rules += [
            (path, landlock.device_rights(version) | landlock.READ_DIR)
            for path in Path("/dev").iterdir()
            if path.name.startswith(_CUDA_DEVICE_PREFIX)
        ]
    return rules


def _lock(rules: list[tuple[Path, int]], tree: str, *, loopback: bool = False) -> dict[str, str]:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    try:
        version = landlock.restrict(rules, loopback=loopback)
    except OSError:
        version = 0
    kernel.drop_capabilities()
    scoped = version >= 6
    own_signals_only = None if scoped or tree == namespace.PID_NAMESPACE else os.getpid()
    filtered = seccomp.install(own_signals_only=own_signals_only, loopback=loopback)
    if tree == namespace.PID_NAMESPACE:
        signals = "pid-namespace"
    elif scoped:
        signals = "landlock"
    else:
        signals = "seccomp" if filtered else "none"
    return {
        "network": "none" if loopback or not filtered else "seccomp",
        "files": f"landlock-{version}" if version else "none",
        "processes": tree,
        "signals": signals,
        "memory": "rlimit+watch",
    }


def confine_candidate(
    *,
    read_write: list[Path],
    read: list[Path],
    device: str,
    tree: str,
    memory_bytes: int,
    disk_bytes: int,
    loopback: bool = False,
    fresh: bool = False,
) -> dict[str, str]:
    """Confines this process for good to Python, the system's libraries and the folders given.

    tree: what `namespace.enter` said. loopback: ranks may talk to each other over TCP. fresh: see `limits.apply`.
    Returns what holds, in the words of `result.Isolation`. A wall that the kernel does not offer is reported as "none",
    never an error.
    """
    limits.first_for_the_oom_killer()
    limits.apply(memory_bytes, disk_bytes, cuda=device.startswith("cuda"), fresh=fresh)
    version = landlock.abi()
    rules = _rules(device)
    rules += [(folder, landlock.READ) for folder in read]
    rules += [(Path(path), landlock.READ) for path in _RANKS_READ if loopback]
    rules += [(folder, landlock.read_write(version)) for folder in read_write]
    return _lock(rules, tree, loopback=loopback)


def confine_judge(*, read: list[Path], device: str, memory_bytes: int) -> dict[str, str]:
    """Confines this process for good to reading: no network, no file written, no other process signalled.

    The judge runs no candidate code; this stands behind its own checks, should one of them fail.
    """
    limits.apply(memory_bytes, 0, cuda=device.startswith("cuda"), fresh="torch" not in sys.modules)
    return _lock(_rules(device) + [(path, landlock.READ) for path in read], namespace.SWEEP)


def offered() -> dict[str, str]:
    """What this machine would give a candidate, asked without confining the caller."""
    tree = _probe_tree()
    version = landlock.abi()
    filtered = seccomp.library() is not None
    unscoped = "landlock" if version >= 6 else "seccomp" if filtered else "none"
    return {
        "network": "seccomp" if filtered else "none",
        "files": f"landlock-{version}" if version else "none",
        "processes": tree,
        "signals": "pid-namespace" if tree == namespace.PID_NAMESPACE else unscoped,
        "memory": "rlimit+watch",
    }


def _probe_tree() -> str:
    child = os.fork()
    if child == 0:
        os._exit(0 if namespace.enter() == namespace.PID_NAMESPACE else 1)
    _, status = os.waitpid(child, 0)
    return namespace.PID_NAMESPACE if status == 0 else namespace.SWEEP
