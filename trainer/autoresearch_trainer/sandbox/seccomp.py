"""The system calls that a candidate is refused, by libseccomp, which knows the numbers of every architecture.

Refused calls return an error instead of killing, so that a person reads `PermissionError` with a line number. The
filter starts from "allowed": PyTorch and CUDA use too many calls for a list of what is needed to hold over versions.
"""

import errno
import signal
import socket
from collections.abc import Callable
from types import ModuleType

from . import kernel

_CONNECTING = ("connect", "bind", "listen", "accept", "accept4")
"""Ways to other machines and processes; the gate's connection is already open (docs/decisions/0005)."""

REFUSED = (  # noqa: SIM905 - groups of words under their reasons read better than seventy lines
    # Work that a filter cannot see, because the kernel does it later.
    "io_uring_setup io_uring_enter io_uring_register "
    # Reading or steering other processes.
    "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp "
    "perf_event_open bpf userfaultfd "
    # Keys outlive the process and are shared by a user's processes; so do System V and POSIX queues and segments.
    "keyctl add_key request_key shmget shmat msgget msgsnd semget semop mq_open mq_unlink "
    # The view of the file system, and files by handle, which go past it.
    "mount umount2 pivot_root chroot move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick mount_setattr "
    "open_by_handle_at name_to_handle_at fanotify_init quotactl quotactl_fd swapon swapoff "
    "unshare setns "
    # The machine.
    "kexec_load kexec_file_load init_module finit_module delete_module reboot acct syslog vhangup "
    "sethostname setdomainname "
    "settimeofday clock_settime clock_adjtime adjtimex iopl ioperm "
    # Which core runs the trial is the operator's to choose, and its launcher's turn at the disk too.
    "sched_setaffinity ioprio_set "
    # Metadata of files outside; Landlock has no rights for these.
    "chown fchown lchown fchownat setxattr lsetxattr fsetxattr setxattrat "
    "removexattr lremovexattr fremovexattr removexattrat"
).split()

PRETENDED = "chmod fchmod fchmodat fchmodat2 utime utimes futimesat utimensat".split()  # noqa: SIM905 - reads as a list
"""Calls that do nothing and report success: shutil.copy makes them in honest code, and Landlock cannot tell inside from
out.
"""

_NAMESPACE_FLAGS = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX type into the person's terminal
_OF_A_PROCESS = ("prlimit64", "sched_setscheduler", "sched_setparam", "sched_setattr")
"""Calls whose first argument names a process, 0 for the caller. The launcher has the candidate's user id, and whoever
lowers its limits or its priority stops the clock it reads."""
_OTHER_FAMILIES = (9, 17, 21, 29, 30, 31, 38, 39, 40, 44)
"""Sockets that are refused even where ranks talk over TCP: X.25, packets, RDS, CAN, TIPC, Bluetooth, the kernel's
cryptography, NFC, virtual machines, XDP."""
_SIGNALS_BY_PID = ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
_SIGNALS_OTHERWISE = ("tkill", "pidfd_send_signal")


def library() -> ModuleType | None:
    """pyseccomp with libseccomp under it, or None where either is missing."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError, AttributeError):  # what a missing or a very old libseccomp raises
        return None
    module: ModuleType = pyseccomp
    return module


def install(*, own_signals_only: int | None, loopback: bool = False) -> bool:
    """Confines this process, its threads and children for good; needs no_new_privs.

    own_signals_only: the process id as the kernel's call sees it, when nothing else stops signals to other processes;
    then signals may go to that id alone. loopback: sockets of the internet families are allowed, for ranks that talk to
    each other; a filter cannot tell addresses apart, so something else must keep them on this machine. Returns False
    where libseccomp is missing or the kernel has no filters.
    """
    seccomp = library()
    if seccomp is None:
        return False
    try:
        program = seccomp.SyscallFilter(seccomp.ALLOW)
        _add_rules(seccomp, program, own_signals_only, loopback)
        program.load()
    except OSError:
        return False
    return True


def _add_rules(seccomp: ModuleType, program: "object", own_signals_only: int | None, loopback: bool) -> None:
    refuse, pretend = seccomp.ERRNO(errno.EPERM), seccomp.ERRNO(0)

    def rule(action: int, name: str, *arguments: object) -> None:
        try:
            program.add_rule(action, name, *arguments)  # type: ignore[attr-defined]  # pyseccomp has no types
        except OSError as error:
            # A call that this libseccomp or this architecture does not know by name cannot be filtered by name.
            if error.errno not in (errno.EINVAL, errno.EDOM, errno.ENOENT):
                raise

    for name in REFUSED:
        rule(refuse, name)
    for name in PRETENDED:
        rule(pretend, name)
    _socket_rules(seccomp, rule, loopback)
    for name in _OF_A_PROCESS:
        rule(refuse, name, seccomp.Arg(0, seccomp.NE, 0))
    for argument in (0, 1):  # only the caller's own priority; groups and users hold the launcher too
        rule(refuse, "setpriority", seccomp.Arg(argument, seccomp.NE, 0))
    # A process that is not dumpable hides its open files from the watch.
    rule(refuse, "prctl", seccomp.Arg(0, seccomp.MASKED_EQ, 0xFFFFFFFF, kernel.PR_SET_DUMPABLE))
    for flag in _NAMESPACE_FLAGS:
        rule(refuse, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    # clone3 hides its flags behind a pointer; told that it does not exist, the C library falls back to clone.
    rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    for request in _TERMINAL_INPUT:
        rule(refuse, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, request))
    # With SIGCHLD ignored a child's CPU time is added to nobody when it ends: work in short-lived children would be
    # free. The kernel reads 32 bits of a signal's number: so must the filter. Success is pretended, since DataLoader
    # and asyncio set a handler they can do without.
    given = seccomp.Arg(1, seccomp.NE, 0)
    rule(pretend, "rt_sigaction", seccomp.Arg(0, seccomp.MASKED_EQ, 0xFFFFFFFF, signal.SIGCHLD), given)
    if own_signals_only is not None:
        for name in _SIGNALS_BY_PID:
            rule(refuse, name, seccomp.Arg(0, seccomp.NE, own_signals_only))
        for name in _SIGNALS_OTHERWISE:
            rule(refuse, name)


def _socket_rules(seccomp: ModuleType, rule: Callable[..., None], loopback: bool) -> None:
    refuse = seccomp.ERRNO(errno.EPERM)
    for name in () if loopback else _CONNECTING:
        rule(refuse, name)
    if loopback:
        for family in _OTHER_FAMILIES:
            rule(refuse, "socket", seccomp.Arg(0, seccomp.EQ, family))
    else:
        # Unconnected AF_UNIX streams can reach nobody; datagrams carry an address and can.
        rule(refuse, "socket", seccomp.Arg(0, seccomp.NE, socket.AF_UNIX))
        for call in ("socket", "socketpair"):
            for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
                rule(refuse, call, seccomp.Arg(1, seccomp.MASKED_EQ, 0xF, kind))
