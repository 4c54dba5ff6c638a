"""Files are whole or absent, one process writes at a time, and a full disk takes nothing away."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from autoresearch_operator.local import durable
from autoresearch_operator.local.durable import (
    DamagedFile,
    RunLock,
    RunLocked,
    StorageFull,
    append_durable,
    quarantine,
    read_json,
    write_durable,
)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_durable(path, b'{"a": 1}')
    facts = write_durable(path, b'{"a": 2}')
    assert read_json(path) == {"a": 2}
    assert (facts.st_size, facts.st_mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_a_full_disk_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "x.json"
    write_durable(path, b'{"a": 1}')

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(durable.os, step, full)
    with pytest.raises(StorageFull, match=r"the disk is full: .*x\.json was not written"):
        write_durable(path, b'{"a": 2}')
    monkeypatch.undo()
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_really_full_device_says_so() -> None:
    with pytest.raises(StorageFull):
        append_durable(Path("/dev/full"), b"x", sync=False)


def test_absent_and_damaged_are_told_apart(tmp_path: Path) -> None:
    assert read_json(tmp_path / "absent.json") is None
    for name, content in {
        "half": b'{"a": ',
        "empty": b"",
        "list": b"[1]",
        "binary": b"\xff\xfe",
        "deep": b"[" * 99999,
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DamagedFile, match=name):
            read_json(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "half")
    with pytest.raises(DamagedFile):
        read_json(tmp_path / "link")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DamagedFile):
        read_json(tmp_path / "folder")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DamagedFile):
        read_json(tmp_path / "fifo")


def test_what_is_set_aside_never_overwrites_what_was_set_aside_before(tmp_path: Path) -> None:
    for expected in ("x.json.corrupt-1", "x.json.corrupt-2"):
        (tmp_path / "x.json").write_text(expected)
        assert quarantine(tmp_path / "x.json").name == expected
    assert (tmp_path / "x.json.corrupt-1").read_text() == "x.json.corrupt-1"


def test_the_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from autoresearch_operator.local.durable import RunLock;"
        "lock = RunLock(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(RunLocked, match=f"in use by process {holder.pid}"):
        RunLock(tmp_path / "lock")
    holder.kill()
    holder.wait()
    lock = RunLock(tmp_path / "lock")
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()
    RunLock(tmp_path / "lock").release()
