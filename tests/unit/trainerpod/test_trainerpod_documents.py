"""What the programs of a trial's pod read and write: its document, the source, the account, the control link."""

import hashlib
import io
import json
import socket
import tarfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from autoresearch_trainer import result as results
from autoresearch_trainer.fields import SpecError
from autoresearch_trainer.pod import draft as drafts
from autoresearch_trainer.pod import source, spec
from autoresearch_trainer.pod.link import Link, LinkError, RemoteClock
from autoresearch_trainer.pod.places import Places
from autoresearch_trainer.preparation import SourceError
from autoresearch_trainer.result import Audit, Isolation, TrialResult
from autoresearch_trainer.ring import Ring
from autoresearch_trainer.windows import WindowOrder

TRIAL: dict[str, Any] = {
    "version": 1,
    "name": "h100-s11-a1",
    "command": ["python", "train.py"],
    "evaluation": "Verified",
    "split": "val",
    "budget": {"seconds": 300},
    "startupSeconds": 600,
    "seed": 11,
    "auditPairs": 128,
    "evalTokens": 1 << 20,
    "device": "cuda",
    "gpus": 1,
    "threads": 4,
    "limits": {"memoryBytes": 1 << 34, "diskBytes": 1 << 33, "processes": 64, "stdoutBytes": 1 << 20},
    "env": {"HF_HUB_OFFLINE": "1"},
    "sourceSHA256": "ab" * 32,
}  # fmt: skip


def test_the_whole_document_of_a_trial_is_read() -> None:
    terms = spec.from_environment({"AUTORESEARCH_TRIAL": json.dumps(TRIAL)})
    assert terms.command == ("python", "train.py") and terms.script == ("train.py",)
    assert (terms.device, terms.gpus, terms.ranks, terms.budget.kind) == ("cuda", 1, 1, "seconds")
    assert terms.limits.processes == 64 and terms.env == {"HF_HUB_OFFLINE": "1"}
    assert spec.parse({**TRIAL, "device": "cpu", "gpus": 0}).ranks == 1
    assert spec.parse({**TRIAL, "command": ["torchrun", "train.py"]}).script == ()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"colour": "red"}, "colour"),
        ({"version": 2}, "version"),
        ({"command": []}, "command"),
        ({"command": ["python", "../train.py"]}, "command"),
        ({"command": ["python", "/etc/x.py"]}, "command"),
        ({"gpus": 0}, "gpus"),
        ({"device": "cuda:0"}, "device"),
        ({"sourceSHA256": "AB" * 32}, "sourceSHA256"),
        ({"env": {"AUTORESEARCH_GATE_FD": "9"}}, "env"),
        ({"env": {"LD_PRELOAD": "x.so"}}, "env"),
        ({"limits": {"memory": 1}}, "limits.memory"),
        ({"budget": {"hours": 1}}, "budget"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.parse({**TRIAL, **changes})
    assert any(problem.startswith(word) for problem in caught.value.problems), caught.value


@pytest.mark.parametrize("text", [None, "", "{", "[]"])
def test_a_missing_or_broken_variable_is_a_sentence(text: str | None) -> None:
    with pytest.raises(SpecError):
        spec.from_environment({} if text is None else {"AUTORESEARCH_TRIAL": text})


def write_tar(folder: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> str:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for entry, content in entries:
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    (folder / "source.tar").write_bytes(out.getvalue())
    return hashlib.sha256(out.getvalue()).hexdigest()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    information = tarfile.TarInfo(name)
    information.type, information.linkname = kind, link
    return information


def test_files_and_folders_are_unpacked(tmp_path: Path) -> None:
    wanted = write_tar(tmp_path, [(entry("train.py"), b"pass\n"), (entry("lib/deep/x.py"), b"X = 1\n")])
    source.unpack(tmp_path, tmp_path / "run", wanted, 1 << 20)
    assert (tmp_path / "run" / "train.py").read_bytes() == b"pass\n"
    assert (tmp_path / "run" / "lib" / "deep" / "x.py").read_bytes() == b"X = 1\n"
    assert source.sha256(tmp_path) == wanted


@pytest.mark.parametrize(
    "entries",
    [
        [(entry("/etc/x"), b"")],
        [(entry("a/../../x"), b"")],
        [(entry("x", tarfile.SYMTYPE, "/etc/shadow"), b"")],
        [(entry("x", tarfile.SYMTYPE, "."), b""), (entry("x/y"), b"1")],
        [(entry("y"), b"1"), (entry("x", tarfile.LNKTYPE, "y"), b"")],
        [(entry("x", tarfile.CHRTYPE), b"")],
        [(entry("x", tarfile.FIFOTYPE), b"")],
        [(entry("x"), b"1"), (entry("x"), b"2")],
        [(entry("x"), bytes(5000))],
    ],
)
def test_anything_else_is_refused(tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    wanted = write_tar(tmp_path, entries)
    with pytest.raises(SourceError):
        source.unpack(tmp_path, tmp_path / "run", wanted, 4096)


def test_a_source_that_changed_or_is_no_archive_is_told_apart(tmp_path: Path) -> None:
    wanted = write_tar(tmp_path, [(entry("train.py"), b"pass\n")])
    with (tmp_path / "source.tar").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(source.SourceDiffers):
        source.unpack(tmp_path, tmp_path / "run", wanted, 1 << 20)
    (tmp_path / "source.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(SourceError):
        source.unpack(tmp_path, tmp_path / "run", source.sha256(tmp_path), 1 << 20)


def test_a_draft_comes_back_as_it_was(tmp_path: Path) -> None:
    result = TrialResult(
        outcome="Lost", detail="Judge", message="Not judged yet.", steps=3, train_tokens=99, cpu_seconds=1.25,
        audit=Audit(8, 0, 0.5), isolation=Isolation(network="seccomp"), curve=[(10, 2.5), (20, 2.25)],
        hardware={"product": "x"}, artifact_sha256="cd" * 32, peak_vram_bytes=7, val_bpb=1.5, seed=4,
    )  # fmt: skip
    assert results.parse(result.as_json()) == result
    drafts.write(tmp_path, drafts.Draft(result, to_judge=True, began=12.5))
    assert drafts.read(tmp_path) == drafts.Draft(result, to_judge=True, began=12.5)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"version": 1}', '{"version": 1, "toJudge": true, "began": 1, "result": {}}']
)
def test_an_account_that_cannot_be_understood_is_a_sentence(tmp_path: Path, text: str) -> None:
    assert drafts.read(tmp_path) is None
    (tmp_path / drafts.FILE_NAME).write_text(text)
    with pytest.raises(drafts.DraftError):
        drafts.read(tmp_path)


def test_places_are_those_of_the_image_unless_a_variable_moves_one() -> None:
    places = Places.of({"AUTORESEARCH_WORK_DIR": "/elsewhere"})
    assert places.work == Path("/elsewhere")
    assert places.gate_socket == Path("/run/autoresearch/socket/gate.sock")
    assert places.termination_log == Path("/dev/termination-log")


def test_the_remote_clock_asks_and_keeps_other_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    here, there = Link(ours), Link(theirs)

    def answer() -> None:
        for reading in (1.5, 1.0):
            there.receive(5)
            asked = there.inbox.popleft()
            there.send({"isolation": {}})
            there.send({"answer": asked["ask"], "cpu": reading})

    thread = threading.Thread(target=answer)
    thread.start()
    clock = RemoteClock(here)
    assert clock.scan() == 1.5
    assert clock.quick() == 1.5, "the clock ran backwards"
    thread.join()
    assert [list(message) for message in here.inbox] == [["isolation"], ["isolation"]]
    monkeypatch.setattr("autoresearch_trainer.pod.link.ANSWER_SECONDS", 0.05)
    with pytest.raises(LinkError):
        clock.scan()  # there, and silent
    theirs.close()
    assert clock.scan() == 1.5  # gone: the last reading stands


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b"x" * (1 << 19)])
def test_a_control_message_out_of_form_is_an_error(line: bytes) -> None:
    ours, theirs = socket.socketpair()
    link = Link(ours)

    def send() -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the reader has had enough
            theirs.sendall(line)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    with pytest.raises(LinkError):
        for _ in range(64):
            link.receive(1)
    ours.close()
    sender.join()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_are_dealt_disjoint_batches_of_one_order(ranks: int) -> None:
    shards = [np.arange(4000, dtype=np.uint16)]
    whole = WindowOrder(shards, 16, 5)
    rings = [Ring(4, 16, WindowOrder(shards, 16, 5), rank, ranks) for rank in range(ranks)]
    for _ in range(3):
        for ring in rings:  # batch k of the order goes to rank k % ranks
            expected = np.empty((4, 17), dtype=np.uint16)
            whole.fill(expected)
            slot = ring._next_slot
            ring.publish(0.0, 1)
            assert np.array_equal(ring._slots[slot], expected)
