"""`autoresearch render`: what a run would put into a cluster, or a sentence."""

from __future__ import annotations

import base64
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from autoresearch_operator.cli import app
from typer.testing import CliRunner

HEAD = "apiVersion: autoresearch.dev/v1alpha1\nkind: ResearchRun\nmetadata: {name: first}\n"


def rendered(file: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    done = CliRunner().invoke(app, ["render", str(file), *arguments])
    assert done.exit_code == 0, done.output
    return {body["kind"]: body for body in yaml.safe_load_all(done.stdout)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "run.yaml"
    found.write_text(f"{HEAD}spec: {{}}\n", encoding="utf-8")
    return found


def test_a_minimal_run_gives_five_objects_in_one_namespace(file: Path) -> None:
    made = rendered(file, "--namespace", "lab", "--trainer-image", "reg.lab.example/trainer:1")
    assert list(made) == ["ResearchRun", "Experiment", "ConfigMap", "Job", "NetworkPolicy"]
    assert {body["metadata"]["namespace"] for body in made.values()} == {"lab"}
    assert made["ResearchRun"]["spec"]["tiers"][0]["budget"] == {"seconds": 300}, "defaults are filled in"
    judge = made["Job"]["spec"]["template"]["spec"]["containers"][0]
    assert judge["image"] == "reg.lab.example/trainer:1"


def test_the_files_are_the_templates_own(file: Path) -> None:
    made = rendered(file)
    packed = base64.b64decode(made["ConfigMap"]["binaryData"]["source.tar"])
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert {"train.py", "prepare.py"} <= set(archive.getnames())
    assert made["Experiment"]["metadata"]["name"] == made["ConfigMap"]["metadata"]["name"] == "first-0"
    assert made["Job"]["metadata"]["name"] == "first-0-s0-a1"


def test_the_image_comes_from_the_environment_when_no_option_names_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_TRAINER_IMAGE", "reg.lab.example/other:2")
    judge = rendered(file)["Job"]["spec"]["template"]["spec"]["containers"][0]
    assert judge["image"] == "reg.lab.example/other:2"


@pytest.mark.parametrize(
    ("spec", "arguments", "sentence"),
    [
        ("{tiers: [{name: gpu, gpus: x}]}", [], "spec.tiers[0].gpus"),
        ("{}", ["--namespace", "No Such"], "with --namespace No Such"),
        ("{source: {url: /srv/repo}}", [], "only local mode can read"),
        ("{source: {url: 'https://localhost:9/nothing.git'}}", [], "https://localhost:9/nothing.git"),
    ],
)
def test_what_cannot_be_rendered_is_said_in_a_sentence(
    tmp_path: Path, spec: str, arguments: list[str], sentence: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"{HEAD}spec: {spec}\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["render", str(file), *arguments])
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.output


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["render", str(tmp_path / "nothing.yaml")])
    assert done.exit_code == 2
    assert "nothing.yaml: cannot be read: No such file or directory" in done.stderr
