"""Landlock: which files a process and its children may open, enforced by the kernel without privileges.

No kept library wraps the three system calls, so they are called directly. What the kernel offers is asked (its ABI
number) and used as far as it goes: ABI 1 files, 2 moving between folders, 3 truncating, 4 TCP, 5 device ioctls, 6
signals and abstract sockets.
"""

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from . import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15

READ = READ_FILE | READ_DIR
READ_EXECUTE = READ | EXECUTE
ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV
"""Rights that make sense on a file; the kernel refuses a rule on a file that names others."""

_RIGHTS_OF_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_NET_BIND_CONNECT = 0b11
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 0b01, 0b10


class _Ruleset(ctypes.Structure):
    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def abi() -> int:
    """The kernel's Landlock ABI; 0 where it has none or it is switched off."""
    version = kernel.syscall_or_none(
        _CREATE_RULESET, ctypes.c_void_p(None), ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION)
    )
    return version or 0


def handled_rights(version: int) -> int:
    """Every file right that this ABI can take away."""
    return _RIGHTS_OF_ABI.get(version, (1 << 16) - 1)


def read_write(version: int) -> int:
    """Everything on files and folders but devices and sockets."""
    return handled_rights(version) & ~(_MAKE_CHAR | _MAKE_SOCK | _MAKE_BLOCK | _IOCTL_DEV)


def device_rights(version: int) -> int:
    """Reading, writing and, where the ABI tells them apart, ioctl on a device node."""
    return (READ_FILE | WRITE_FILE | _IOCTL_DEV) & handled_rights(version)


def restrict(rules: Iterable[tuple[Path, int]], *, loopback: bool = False) -> int:
    """Confines this process to rules, (path, rights) pairs; every other file is refused from now on.

    loopback: TCP and abstract sockets stay allowed, for ranks that talk to each other: each rank has rules of its own,
    and a scope ends at them.

    Paths that do not exist are left out. Needs no_new_privs. Returns the ABI in use, 0 when the kernel has none; raises
    OSError when it has one and refuses the rules.
    """
    version = abi()
    if version == 0:
        return 0
    ruleset = _Ruleset(fs=handled_rights(version))
    if version >= 4 and not loopback:
        ruleset.net = _NET_BIND_CONNECT
    if version >= 6:
        ruleset.scoped = _SCOPE_SIGNALS if loopback else _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS
    size = 8 if version < 4 else 16 if version < 6 else 24
    descriptor = kernel.syscall(
        "landlock_create_ruleset", _CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), ctypes.c_uint32(0)
    )
    try:
        for path, rights in rules:
            _allow(descriptor, path, rights & handled_rights(version))
        kernel.syscall("landlock_restrict_self", _RESTRICT_SELF, descriptor, ctypes.c_uint32(0))
    finally:
        os.close(descriptor)
    return version


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # what is not there, or not ours to open, cannot be allowed
    try:
        if not path.is_dir():
            rights &= ON_FILES
        rule = _PathBeneath(allowed=rights, parent=parent)
        kernel.syscall(
            f"landlock_add_rule for {path}",
            _ADD_RULE,
            ruleset,
            ctypes.c_int(_RULE_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
    finally:
        os.close(parent)
