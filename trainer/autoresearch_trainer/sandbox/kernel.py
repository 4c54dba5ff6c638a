"""The few kernel calls that Python has no name for, each raising OSError with what was tried."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000

_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63


def _check(returned: int, what: str) -> int:
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return returned


def syscall(what: str, number: int, *arguments: object) -> int:
    """A system call by number. Integers are passed as long, anything else as ctypes gives it."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *converted), what)


def prctl(option: int, value: int, third: int = 0) -> int:
    """prctl(2) with up to two arguments."""
    arguments = (ctypes.c_ulong(value), ctypes.c_ulong(third), ctypes.c_ulong(0), ctypes.c_ulong(0))
    return _check(_libc.prctl(ctypes.c_int(option), *arguments), f"prctl({option}, {value})")


def unshare(flags: int) -> None:
    """unshare(2): the caller, or for a pid namespace its children, leave the shared namespaces."""
    _check(_libc.unshare(ctypes.c_int(flags)), f"unshare({flags:#x})")


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    """mount(2) without data."""
    _check(
        _libc.mount(
            source.encode(), target.encode(), None if kind is None else kind.encode(), ctypes.c_ulong(flags), None
        ),
        f"mount {source} on {target}",
    )


def die_with_parent() -> None:
    """Has the kernel send SIGKILL to this process when the thread that forked it ends."""
    prctl(PR_SET_PDEATHSIG, 9)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapabilityData(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def drop_capabilities() -> None:
    """Gives up every capability, also for programs started later; the user id stays.

    For root this is what makes the other walls hold: CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_KILL and CAP_DAC_OVERRIDE go.
    A process without privileges has none to lose.
    """
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # past the last capability of this kernel (EINVAL), or not privileged (EPERM): nothing to drop
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    empty = (_CapabilityData * 2)()
    _check(_libc.capset(ctypes.byref(header), empty), "capset")


def syscall_or_none(number: int, *arguments: object) -> int | None:
    """As `syscall`, None where the kernel refuses or does not know it; for probing."""
    try:
        return syscall("probe", number, *arguments)
    except OSError:
        return None
