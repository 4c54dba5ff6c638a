"""Telling the kernel's out-of-memory killer from anybody else's SIGKILL."""

from pathlib import Path

import pytest
from autoresearch_trainer.kernelkills import oom_kills

FILL = "b = []\nwhile True: b.append(bytearray(b'x') * (1 << 20))"
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
