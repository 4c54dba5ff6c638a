"""What a person reads when the command line is right, and when it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from autoresearch_operator.cli import app
from typer.testing import CliRunner


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def run(command: CliRunner, *arguments: str) -> tuple[int, str, str]:
    result = command.invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def write(text: str) -> str:
    Path("run.yaml").write_text(text)
    return "run.yaml"


HEAD = "apiVersion: autoresearch.dev/v1alpha1\nkind: ResearchRun\nmetadata: {name: first}\n"


def test_init_writes_a_file_that_loads_and_never_overwrites_one(command: CliRunner) -> None:
    code, out, _ = run(command, "init", "mine.yaml", "--name", "mine")
    assert code == 0
    assert "autoresearch run mine.yaml" in out
    code, _, err = run(command, "init", "mine.yaml")
    assert code == 2
    assert "mine.yaml exists" in err


def test_several_mistakes_are_named_at_once_with_their_paths(command: CliRunner) -> None:
    file = write(HEAD + "spec:\n  tiers: [{name: cpu, gpus: one}]\n  limits: {experiment: 5}\n")
    code, _, err = run(command, "run", file)
    assert code == 2
    assert "spec.tiers[0].gpus" in err
    assert "spec.limits.experiment" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            "{tiers: [{name: cpu, gpus: 0}], proposers: [{openai: {baseURL: 'http://h:1/v1', model: m}}]}",
            "spec.proposers[0].openai",
        ),
        ("{tiers: [{name: a, gpus: 0}, {name: b, gpus: 0}]}", "spec.tiers: local mode measures on one tier, got 2"),
        ("{tiers: [{name: cpu, gpus: 0}], trainer: {data: {claimName: x}}}", "--data DIR"),
        ("{tiers: [{name: cpu, gpus: 0}], trainer: {command: [bash, train.sh]}}", "spec.trainer.command"),
    ],
)
def test_what_needs_a_cluster_is_refused_with_a_way_out(command: CliRunner, spec: str, sentence: str) -> None:
    code, _, err = run(command, "run", write(HEAD + f"spec: {spec}\n"))
    assert code == 2
    assert sentence in err


def test_a_tier_with_gpus_that_are_not_here_says_what_to_do(
    command: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoresearch_operator.local.machine.gpu_names", lambda: ())
    code, _, err = run(command, "run", write(HEAD + "spec: {}\n"))
    assert code == 2
    assert "this machine has 0" in err
    assert "gpus: 0" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "none.yaml"), "none.yaml: cannot be read"),
        (("results",), "there is no run under runs/"),
        (("results", "--workdir", "nowhere"), "holds no run"),
        (("show", "1", "--workdir", "nowhere"), "holds no run"),
        (("report", "--workdir", "nowhere"), "holds no run"),
        (("rerun", "1", "--workdir", "nowhere"), "holds no run"),
    ],
)
def test_a_file_or_folder_that_is_not_there_is_a_sentence(
    command: CliRunner, arguments: tuple[str, ...], sentence: str
) -> None:
    code, _, err = run(command, *arguments)
    assert code in (1, 2)
    assert sentence in err
    assert "Traceback" not in err


def test_a_data_folder_without_a_manifest_is_refused_before_anything_is_made(command: CliRunner) -> None:
    file = write(HEAD + "spec: {tiers: [{name: cpu, gpus: 0}]}\n")
    code, _, err = run(command, "run", file, "--data", ".")
    assert code == 1
    assert "no manifest.json" in err
    assert not Path("runs/first/run.json").exists()


def test_version_names_what_decides_a_score(command: CliRunner) -> None:
    code, out, _ = run(command, "version", "--json")
    assert code == 0
    assert {"python", "torch", "autoresearch-trainer"} <= set(json.loads(out))
