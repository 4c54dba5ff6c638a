"""`doctor` answers on every machine, and says what to do."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest
from autoresearch_operator.local import doctor
from autoresearch_operator.local.doctor import (
    Finding,
    diagnose,
    exit_code,
    findings_json,
    findings_table,
    fixed_loop_times,
    isolation_findings,
)
from autoresearch_operator.observe.tables import render
from autoresearch_operator.settings import Settings


def tool(folder: Path, name: str, script: str) -> None:
    """A program of that name, first on the path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def found(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def trainer_that(folder: Path, script: str) -> Settings:
    path = folder / "trainer.py"
    path.write_text(script)
    return Settings(cache=folder / "cache", trainer=(sys.executable, str(path)), ready_timeout=20, stop_timeout=5)


READY = """
import json, sys
held = {"network": "seccomp", "files": "none", "processes": "sweep", "signals": "seccomp", "memory": "rlimit+watch"}
ready = {"event": "ready", "version": 1, "pid": 1, "isolation": held, "hardware": {"product": "two cores"}}
print(json.dumps(ready), flush=True)
for line in sys.stdin:
    if json.loads(line)["command"] == "exit":
        break
"""


def test_a_machine_is_described_without_a_trainer(tmp_path: Path) -> None:
    findings = diagnose(tmp_path / "runs" / "not" / "made", Settings(cache=tmp_path), trainer=False)
    names = [finding.name for finding in findings]
    assert names == ["python", "git", "cores", "memory", "gpus", "clock noise", "disk for runs", "disk for data"]
    assert found(findings, "python").status == "ok"
    assert str(tmp_path) in found(findings, "disk for runs").value
    assert exit_code(findings) == 0
    assert not (tmp_path / "runs").exists(), "looking makes nothing"


def test_the_trainer_says_what_the_kernel_offers(tmp_path: Path) -> None:
    findings = diagnose(tmp_path, trainer_that(tmp_path, READY))
    assert found(findings, "isolation: network").status == "ok"
    files = found(findings, "isolation: files")
    assert files.status == "warn" and "validation data" in files.advice
    assert found(findings, "isolation: processes").status == "warn"
    assert "two cores" in found(findings, "trainer").value
    assert exit_code(findings) == 0, "a trial still runs, so this is no failure"


@pytest.mark.parametrize("script", ["import sys; sys.exit('no module named torch')", "print('hello')"])
def test_a_trainer_that_does_not_start_is_a_failure_with_advice(tmp_path: Path, script: str) -> None:
    findings = diagnose(tmp_path, trainer_that(tmp_path, script))
    failed = found(findings, "trainer")
    assert failed.status == "fail" and "AUTORESEARCH_TRAINER" in failed.advice
    assert exit_code(findings) == 1


def test_a_trainer_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path, trainer=("/no/such/program",))
    assert found(diagnose(tmp_path, settings), "trainer").status == "fail"


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("echo git version 2.39.5", "ok"),
        ("echo git version 2.20.1", "warn"),
        ("echo strange", "warn"),
        ("exit 3", "fail"),
    ],
)
def test_git_is_asked_for_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, status: str
) -> None:
    tool(tmp_path, "git", script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert found(diagnose(tmp_path, Settings(cache=tmp_path), trainer=False), "git").status == status


def test_no_git_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = diagnose(tmp_path, Settings(cache=tmp_path), trainer=False)
    assert found(findings, "git").status == "fail"
    assert exit_code(findings) == 1


def test_gpus_are_listed_and_a_driver_without_any_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    tool(tmp_path, "nvidia-smi", "echo NVIDIA A100; echo NVIDIA A100")
    assert found(diagnose(tmp_path, Settings(cache=tmp_path), trainer=False), "gpus").value == "2: NVIDIA A100"
    tool(tmp_path, "nvidia-smi", "exit 9")
    assert found(diagnose(tmp_path, Settings(cache=tmp_path), trainer=False), "gpus").status == "warn"


@pytest.mark.parametrize(("free", "status"), [(100 << 30, "ok"), (3 << 30, "warn"), (1 << 20, "fail")])
def test_a_disk_that_is_nearly_full_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str
) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _place: type("Usage", (), {"free": free}))
    assert found(diagnose(tmp_path, Settings(cache=tmp_path), trainer=False), "disk for runs").status == status


@pytest.mark.parametrize(("limit", "status"), [(1 << 30, "fail"), (2 << 30, "warn"), (1 << 40, "ok")])
def test_memory_is_compared_with_what_the_slots_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, status: str
) -> None:
    monkeypatch.setattr(doctor, "memory_limit", lambda: limit)
    monkeypatch.setattr(doctor, "_memory_available", lambda: limit)
    monkeypatch.setattr(doctor, "usable_cpus", lambda: tuple(range(4)))
    assert found(diagnose(tmp_path, Settings(cache=tmp_path), trainer=False), "memory").status == status


def test_half_a_core_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cpu_quota", lambda: 0.5)
    cores = found(diagnose(tmp_path, Settings(cache=tmp_path), trainer=False), "cores")
    assert cores.status == "warn" and "cgroup quota 0.5" in cores.value


def test_the_clock_s_noise_is_measured_on_equal_pieces_of_work() -> None:
    assert len(times := fixed_loop_times(5)) == 5
    assert all(0 < seconds < 30 for seconds in times)


def test_what_the_trainer_did_not_say_is_unknown() -> None:
    assert {finding.value for finding in isolation_findings({})} == {"unknown"}


def test_the_table_fits_and_json_is_json(tmp_path: Path) -> None:
    findings = diagnose(tmp_path, Settings(cache=tmp_path), trainer=False)
    findings.append(Finding("strange", "warn", "\x1b[2J[bold]x", "Do something about it."))
    text = render(findings_table(findings, width=80), width=80)
    assert all(len(line) <= 80 for line in text.splitlines()) and "\x1b" not in text
    assert "[bold]x" in text and "Do something about it." in text
    assert json.loads(json.dumps(findings_json(findings)))[-1]["status"] == "warn"
