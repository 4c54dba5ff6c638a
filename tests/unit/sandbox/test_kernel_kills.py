"""Telling the kernel's out-of-memory killer from anybody else's SIGKILL."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from autoresearch_trainer.kernelkills import oom_kills

FILL = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))  # a machine whose cgroups do not hold must not fill
b = []
while True: b.append(bytearray(b'x') * (1 << 20))
"""
V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
V2 = "low 0\nhigh 0\nmax 9\noom 4\noom_kill 2\noom_group_kill 0\n"


def make_proc(folder: Path, cgroup: str, mount: str) -> Path:
    proc = folder / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(cgroup)
    (proc / "mountinfo").write_text(mount)
    return proc


@pytest.mark.parametrize(
    ("cgroup", "root", "inside", "expected"),
    [
        ("0::/trials/one\n", "/", "trials/one", 2),
        ("0::/\n", "/", ".", 2),
        ("0::/pod7/train\n", "/pod7/train", ".", 2),
        ("0::/../elsewhere\n", "/", ".", 2),
    ],
)
def test_version_2_counts_in_memory_events(tmp_path: Path, cgroup: str, root: str, inside: str, expected: int) -> None:
    folder = tmp_path / "cgroup" / inside
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.events").write_text(V2)
    mount = f"31 23 0:27 {root} {tmp_path}/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    assert oom_kills(make_proc(tmp_path, cgroup, mount)) == expected


def test_version_1_counts_in_oom_control(tmp_path: Path) -> None:
    folder = tmp_path / "memory" / "docker" / "c1"
    folder.mkdir(parents=True)
    (folder / "memory.oom_control").write_text(V1)
    mounts = (
        f"30 23 0:26 / {tmp_path}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        f"31 23 0:27 / {tmp_path}/memory rw - cgroup cgroup rw,memory\n"
    )
    proc = make_proc(tmp_path, "4:memory:/docker/c1\n3:cpu,cpuacct:/\n0::/\n", mounts)
    assert oom_kills(proc) == 3


@pytest.mark.parametrize("cgroup", ["", "0::/\n", "4:memory:/a\n"])
def test_nothing_is_said_where_nothing_is_told(tmp_path: Path, cgroup: str) -> None:
    assert oom_kills(make_proc(tmp_path, cgroup, "")) is None
    assert oom_kills(tmp_path / "nobody") is None


@pytest.fixture
def small_cgroup() -> Iterator[Path]:
    """A cgroup of 128 MiB, where this machine lets one be made."""
    name = f"autoresearch-test-{os.getpid()}"
    root = Path("/sys/fs/cgroup")
    v1 = root / "memory" / "memory.limit_in_bytes"
    folder, limit = (root / "memory" / name, v1.name) if v1.exists() else (root / name, "memory.max")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error.strerror}")
    try:
        (folder / limit).write_text(str(128 << 20))
        yield folder
    except OSError as error:
        pytest.skip(f"a cgroup's memory cannot be limited here: {error.strerror}")
    finally:
        folder.rmdir()


def test_a_kill_for_want_of_memory_is_counted_and_another_is_not(small_cgroup: Path) -> None:
    """The counting process sits in the cgroup as the supervisor does, and starts both victims."""
    line = f"""
import os, signal, subprocess, sys
open({str(small_cgroup / "cgroup.procs")!r}, "w").write(str(os.getpid()))
open("/proc/self/oom_score_adj", "w").write("-500")
from autoresearch_trainer.kernelkills import oom_kills
def adj(): open("/proc/self/oom_score_adj", "w").write("1000")
before = oom_kills()
child = subprocess.Popen(["sleep", "60"])
child.kill()
assert child.wait() == -{int(signal.SIGKILL)} and oom_kills() == before, "a plain kill was counted"
full = subprocess.run([sys.executable, "-c", {FILL!r}], preexec_fn=adj)
assert full.returncode == -{int(signal.SIGKILL)}, full
print(oom_kills() - before)
"""
    run = subprocess.run([sys.executable, "-P", "-c", line], capture_output=True, text=True, check=False, timeout=60)
    if "PermissionError" in run.stderr:
        pytest.skip("processes may not be moved between cgroups here")
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 1
