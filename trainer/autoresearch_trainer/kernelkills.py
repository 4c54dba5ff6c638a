"""Whether the kernel's out-of-memory killer has been at work in this process's memory cgroup.

A process that it ends looks like any other that SIGKILL ended. The count of the cgroup tells them apart, for a limit of
the cgroup and for a machine without memory alike: the kernel counts a victim in the cgroup that it was in.
"""

from pathlib import Path

_V2, _V1 = "memory.events", "memory.oom_control"


def oom_kills(proc: Path = Path("/proc/self")) -> int | None:
    """Processes ended so far in this process's cgroup (v2: and in those below it); None where that is not told.

    proc: a process's folder in /proc.
    """
    try:
        cgroups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return None
    for line in cgroups:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            found = _count(_folder(mounts, "cgroup2", "", path), _V2)
        elif "memory" in controllers.split(","):
            found = _count(_folder(mounts, "cgroup", "memory", path), _V1)
        else:
            continue
        if found is not None:
            return found
    return None


def out_of_memory(peak_bytes: int, allowed_bytes: int) -> str:
    """What to say of a candidate that the kernel ended for want of memory."""
    return (
        f"The kernel ended the script because memory had run out; {peak_bytes >> 20} MiB were in use when last "
        f"measured and limits.memoryBytes allows {allowed_bytes >> 20} MiB."
    )


def _folder(mounts: list[str], kind: str, controller: str, path: str) -> Path | None:
    """Where the cgroup named path is mounted."""
    for line in mounts:
        left, _, right = line.partition(" - ")
        fields, (kind_here, _, options) = left.split(), right.split(" ", 2)
        if kind_here != kind or (controller and controller not in options.split(",")):
            continue
        root, point = fields[3], Path(fields[4])
        if root != "/" and (path == root or path.startswith(root + "/")):
            path = path[len(root) :]  # a container sees its own part only, at the top of the mount
        folder = point / path.lstrip("/")
        # in a cgroup namespace the path may lie outside of what is mounted
        return folder if ".." not in Path(path).parts and folder.is_dir() else point
    return None


def _count(folder: Path | None, name: str) -> int | None:
    if folder is None:
        return None
    try:
        lines = (folder / name).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(" ")
        if key == "oom_kill" and value.isdigit():
            return int(value)
    return None
