"""The view of a run while it goes on: it tells everything, and it never stops the loop."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from autoresearch_operator.api.reasons import CompleteReason, Verdict, VerdictReason
from autoresearch_operator.local.live import LiveDrawing
from autoresearch_operator.local.machine import Slot
from autoresearch_operator.local.stream import SafeStream
from autoresearch_operator.local.view import Mode, PlainDrawing, View, open_view
from autoresearch_operator.observe.tables import render
from autoresearch_operator.research.records import (
    Decision,
    ExperimentRecord,
    Plan,
    Purpose,
    TrialPhase,
    TrialStart,
)
from observed_runs import FACTS, HOSTILE_TITLES, hostile, made_up_records, run_trial
from rich.cells import cell_len

SLOT = Slot(1, (1,), "cpu", 1)
OBSERVED, STANDING = made_up_records(12, finished=False)


def decision_of(record: ExperimentRecord) -> Decision:
    return Decision(
        record.number, record.verdict or Verdict.REJECTED, record.reason or VerdictReason.NOT_BETTER, record.message,
        record.val_bpb, record.delta, record.delta_error,
    )  # fmt: skip


def play(view: View, records: list[ExperimentRecord] | None = None, *, end: bool = True) -> None:
    """A short run as the loop tells it."""
    view.started(FACTS)
    for record in records if records is not None else list(OBSERVED.experiments)[:5]:
        trial = run_trial(record.number, Purpose.SCREEN, record.number, 0, 2.5)
        view.trial_started(SLOT, TrialStart(trial.key, "cpu", trial.purpose, record.number, "val", 128), record)
        view.trial_progress(SLOT, {"step": 1, "tokens": 9000, "loss": 4.25, "progress": 0.5})
        view.trial_finished(SLOT, trial)
        view.decided(record, decision_of(record), STANDING)
        if record.landed_commit is not None:
            view.landed(record, record.landed_commit)
        view.update(STANDING, 0)
    view.note("the trainer ended; starting it again")
    if end:
        plan = Plan(standing=STANDING, complete=CompleteReason.EXPERIMENT_LIMIT, message="All done.")
        view.finished(plan, [Path("runs/first/report.html")])


def shown(mode: Mode, records: list[ExperimentRecord] | None = None) -> str:
    stream = io.StringIO()
    with open_view(stream, mode=mode) as view:
        play(view, records)
    assert view.failure is None
    return stream.getvalue()


def test_plain_lines_tell_starts_scores_verdicts_landings_and_the_end() -> None:
    lines = shown("plain").splitlines()
    assert all(line[2] == ":" and line[5] == ":" and line[8:10] == "  " for line in lines)
    text = "\n".join(lines)
    assert "branch autoresearch/default-quickstart" in text
    assert "slot 1: #1 first run started" in text
    assert "slot 1: #1 first run: 2.5000 bpb, 18k tok/s, 612 MiB, 12 s" in text
    assert "#1 Rejected: NotBetter" in text
    assert "#3 Accepted: Improved" in text
    assert "#3 is on the branch as 0000003bbb" in text
    assert "#0 Measured" in text
    assert "ExperimentLimit: All done." in text
    assert "runs/first/report.html" in text
    assert len(lines) < 5 * 5, "one line an event, and none for progress"


def test_json_lines_can_be_read_one_by_one() -> None:
    events = [json.loads(line) for line in shown("json").splitlines()]
    assert [event["event"] for event in events[:4]] == ["started", "trialStarted", "trialFinished", "decided"]
    assert events[-1]["complete"] == "ExperimentLimit"
    assert events[-1]["files"] == ["runs/first/report.html"]
    verdict = next(event for event in events if event["event"] == "decided" and event["experiment"] == 3)
    assert (verdict["verdict"], verdict["reason"]) == ("Accepted", "Improved")
    assert all(isinstance(event["at"], float) for event in events)


def test_scores_that_are_not_finite_are_null_in_json() -> None:
    record = replace(OBSERVED.experiments[1], val_bpb=float("nan"), delta=float("inf"))
    events = [json.loads(line, parse_constant=pytest.fail) for line in shown("json", [record]).splitlines()]
    assert next(event for event in events if event["event"] == "decided")["valBPB"] is None


@pytest.mark.parametrize("mode", ["plain", "json", "live"])
def test_hostile_titles_reach_no_terminal(mode: Mode) -> None:
    rows = hostile().rows
    records = [
        replace(OBSERVED.experiments[place % 12], title=row.title, message=row.title) for place, row in enumerate(rows)
    ]
    text = shown(mode, records)
    assert "\x1b[31mred" not in text and "\x1b]0;" not in text and "\u202e" not in text and "\x00" not in text
    text.encode("utf-8")


def test_the_live_picture_fits_a_narrow_terminal() -> None:
    drawing = LiveDrawing(SafeStream(io.StringIO()), width=80)
    drawing.started(FACTS)
    record = replace(OBSERVED.experiments[1], title="a long title " * 20)
    for index in range(20):
        trial = run_trial(1, Purpose.SCREEN, 1, 0, 2.5)
        slot = Slot(index, (), "cpu", 1)
        drawing.trial_started(slot, TrialStart(trial.key, "cpu", trial.purpose, 1, "val", 128), record)
        drawing.now = 1.0
        drawing.trial_progress(slot, {"step": 1, "tokens": 9000, "loss": 4.25, "progress": 0.5})
        drawing.now = 2.0
        drawing.trial_progress(slot, {"step": 2, "tokens": 18_000, "loss": 3.25, "progress": 7.0})
    drawing.update(STANDING, 2)
    picture = render(drawing.picture(), width=80)
    assert all(cell_len(line) <= 80 for line in picture.splitlines())
    assert "and 4 more slots" in picture
    assert "3.25" in picture and "9k/s" in picture and "being judged" in picture
    assert "best 2.3878 (gain +0.4922)" in picture and "12/40 decided" in picture
    drawing.close()


@pytest.mark.parametrize(
    "event",
    [{}, {"loss": None, "tokens": None, "progress": None}, {"loss": "x", "tokens": -5, "progress": float("nan")}],
)
def test_progress_that_makes_no_sense_is_passed_over(event: dict[str, Any]) -> None:
    with open_view(io.StringIO(), mode="live") as view:
        view.started(FACTS)
        trial = run_trial(1, Purpose.SCREEN, 1, 0, 2.5)
        start = TrialStart(trial.key, "cpu", trial.purpose, 1, "val", 128)
        view.trial_progress(SLOT, event)
        view.trial_started(SLOT, start, OBSERVED.experiments[1])
        view.trial_progress(SLOT, event)
    assert view.failure is None


def test_a_lost_trial_says_that_it_is_measured_again() -> None:
    stream = io.StringIO()
    with open_view(stream, mode="plain") as view:
        lost = run_trial(1, Purpose.SCREEN, 1, 0, None, phase=TrialPhase.LOST)
        view.trial_finished(SLOT, lost)
    assert "lost, measured again" in stream.getvalue()


class _Broken(io.StringIO):
    def write(self, _text: str, /) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("mode", ["plain", "json", "live"])
def test_a_reader_that_went_away_does_not_stop_the_loop(mode: Mode) -> None:
    with open_view(_Broken(), mode=mode) as view:
        play(view)
    assert view.failure is None


@pytest.mark.parametrize("mode", ["plain", "json", "live"])
def test_a_pipe_closed_by_head_ends_neither_the_run_nor_with_a_traceback(mode: Mode) -> None:
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "observe")]
    program = (
        f"import sys; sys.path[:0] = {folders!r}\n"
        "from test_run_view import play\n"
        "from autoresearch_operator.local.view import open_view\n"
        "import time\n"
        f"with open_view(mode={mode!r}) as view:\n"
        "    play(view, end=False); time.sleep(0.3); play(view)\n"
        "sys.exit(7)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    complaint = child.stderr.read().decode()
    assert child.wait(60) == 7
    assert complaint == ""


def test_a_terminal_that_lacks_letters_gets_escapes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with open_view(stream, mode="plain") as view:
        view.note("gain ± 0.1 \U0001f680")
    stream.flush()
    assert b"gain \\xb1 0.1 \\U0001f680" in raw.getvalue()


class _Faulty(PlainDrawing):
    def decided(self, *_: object) -> None:
        raise RuntimeError("a fault in drawing")


def test_a_fault_in_drawing_is_kept_and_the_plainer_form_takes_over(caplog: pytest.LogCaptureFixture) -> None:
    stream = SafeStream(io.StringIO())
    kept = io.StringIO()
    with View([_Faulty(stream), PlainDrawing(SafeStream(kept))]) as view:
        play(view)
    assert isinstance(view.failure, RuntimeError)
    assert "gave up on decided" in caplog.text
    assert "#0 Measured" in kept.getvalue(), "the event that failed is told by the next form"
    assert "runs/first/report.html" in kept.getvalue()


def test_when_every_form_fails_there_is_silence() -> None:
    with View([_Faulty(SafeStream(io.StringIO()))]) as view:
        play(view)
    assert isinstance(view.failure, RuntimeError)


class _Stuck(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def write(self, _text: str, /) -> int:
        self.release.wait(30)
        return 0


def test_a_stopped_terminal_holds_up_neither_an_event_nor_the_end() -> None:
    stream = _Stuck()
    view = open_view(stream, mode="plain")
    begun = time.monotonic()
    play(view)
    for step in range(5000):
        view.trial_progress(SLOT, {"step": step})
    view.close(timeout=0.2)
    assert time.monotonic() - begun < 5
    stream.release.set()


def test_an_event_costs_the_loop_less_than_a_millisecond() -> None:
    view = open_view(io.StringIO(), mode="live")
    view.started(FACTS)
    spent = time.thread_time()
    for step in range(1000):
        view.trial_progress(SLOT, {"step": step, "tokens": step, "loss": 3.0, "progress": 0.5})
        view.update(STANDING, 2)
    each = (time.thread_time() - spent) / 2000
    view.close()
    assert each < 1e-3


def test_a_terminal_gets_the_live_picture_and_its_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal, open_view(terminal) as view:
        play(view, end=False)
        time.sleep(0.8)
    text = os.read(master, 1 << 20).decode()
    os.close(master)
    assert "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "decided" in text and "Accepted: Improved" in text


def test_a_terminal_without_a_movable_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal, open_view(terminal) as view:
        play(view)
    text = os.read(master, 1 << 20).decode()
    os.close(master)
    assert "\x1b" not in text and "#3 Accepted: Improved" in text


def test_hostile_titles_are_what_the_other_tests_believe() -> None:
    assert any("\x1b" in title for title in HOSTILE_TITLES)
