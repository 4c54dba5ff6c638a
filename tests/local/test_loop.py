"""The whole loop with the real trainer, through the commands a person types."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AUTORESEARCH = [sys.executable, "-c", "from autoresearch_operator.cli import main; main()"]
REQUEST = """\
apiVersion: autoresearch.dev/v1alpha1
kind: ResearchRun
metadata: {name: loop}
spec:
  tiers: [{name: cpu, gpus: 0, budget: {steps: 8}, maxParallel: 2}]
  limits: {experiments: 2}
"""


@dataclass
class Finished:
    """A run that went to its end, stopped once on the way."""

    workdir: Path
    first_code: int
    output: str


def autoresearch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*AUTORESEARCH, *arguments], capture_output=True, text=True, check=False, timeout=280)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("loop")
    request, workdir, log = folder / "run.yaml", folder / "work", folder / "log.txt"
    request.write_text(REQUEST)
    command = [*AUTORESEARCH, "run", str(request), "--workdir", str(workdir), "--plain"]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 200
        while "baseline run: " not in log.read_text() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        first_code = process.wait(120)
        second = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False, timeout=280)
    assert second.returncode == 0, log.read_text()
    yield Finished(workdir, first_code, log.read_text())


@pytest.mark.timeout(600)
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(finished: Finished) -> None:
    assert finished.first_code == 130, finished.output
    assert "letting the running trials finish" in finished.output
    starts = re.findall(r"#0 baseline run started", finished.output)
    assert len(starts) == 5, "a finished trial was measured again"


def test_the_branch_holds_the_accepted_edits_with_their_figures(finished: Finished) -> None:
    answer = json.loads(autoresearch("results", "--workdir", str(finished.workdir), "--json").stdout)
    accepted = [row for row in answer["experiments"] if row["verdict"] == "Accepted"]
    assert accepted, finished.output
    log = subprocess.run(
        ["git", "-C", str(finished.workdir / "repo.git"), "log", "--format=%B%x00", "autoresearch/default-loop"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ambiguous" not in log.stderr
    messages = [message.strip() for message in log.stdout.split("\0") if message.strip()]
    assert len(messages) == 1 + len(accepted)
    newest = accepted[-1]
    assert f"Autoresearch-Experiment: {newest['number']}" in messages[0]
    assert f"Autoresearch-Val-BPB: {newest['valBPB']:.6f}" in messages[0]


def test_every_confirmed_candidate_passed_the_full_audit(finished: Finished) -> None:
    passed: dict[str, int] = {}
    for path in finished.workdir.glob("trials/*/*/result.json"):
        spec = json.loads(path.parent.with_suffix(".json").read_text())["spec"]
        result = json.loads(path.read_text())
        assert result["audit"]["mismatches"] == 0
        assert result["audit"]["pairs"] >= spec["auditPairs"] >= 64
        folder = path.parent.parent.name
        passed[folder] = passed.get(folder, 0) + result["audit"]["pairs"]
    answer = json.loads(autoresearch("results", "--workdir", str(finished.workdir), "--json").stdout)
    for row in answer["experiments"]:
        if row["verdict"] == "Accepted":
            assert passed[f"{row['number']:05d}"] >= 2048


def test_a_recorded_score_is_measured_again_to_the_bit(finished: Finished) -> None:
    again = autoresearch("rerun", "1", "--workdir", str(finished.workdir))
    assert again.returncode == 0, again.stderr
    assert "the same to the bit" in again.stdout


def test_show_and_report_tell_the_same_figures(finished: Finished) -> None:
    shown = autoresearch("show", "1", "--workdir", str(finished.workdir))
    assert shown.returncode == 0, shown.stderr
    assert "Traceback" not in shown.stderr
    page = (finished.workdir / "report.html").read_text()
    answer = json.loads(autoresearch("results", "--workdir", str(finished.workdir), "--json").stdout)
    assert answer["experiments"][1]["title"] in shown.stdout
    assert f"{answer['experiments'][1]['valBPB']:.4f}" in shown.stdout
    assert f"{answer['experiments'][1]['valBPB']:.4f}" in page
    assert (finished.workdir / "progress.png").read_bytes().startswith(b"\x89PNG")
    missing = autoresearch("show", "99", "--workdir", str(finished.workdir))
    assert missing.returncode == 2
    assert "is not in" in missing.stderr


def test_the_candidates_ran_behind_every_protection_of_this_kernel(finished: Finished) -> None:
    for path in finished.workdir.glob("trials/*/*/result.json"):
        isolation = json.loads(path.read_text())["isolation"]
        if os.environ.get("AUTORESEARCH_REQUIRE_ISOLATION"):
            assert isolation["network"] == "seccomp"
            assert isolation["files"].startswith("landlock")
        assert "none" not in {isolation["memory"], isolation["processes"]}


def test_another_budget_for_the_same_run_is_refused(finished: Finished) -> None:
    other = finished.workdir.parent / "other.yaml"
    other.write_text(REQUEST.replace("steps: 8", "steps: 9"))
    answer = autoresearch("run", str(other), "--workdir", str(finished.workdir))
    assert answer.returncode == 2
    assert "spec.tiers was changed" in answer.stderr
    assert "--workdir" in answer.stderr
