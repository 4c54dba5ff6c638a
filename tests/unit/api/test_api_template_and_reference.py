"""The commented template, the examples and the generated pages agree with the models."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from autoresearch_operator.api import reasons
from autoresearch_operator.api.load import InvalidResource, load_run
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.api.template import commented_run

ROOT = Path(__file__).resolve().parents[3]
GENERATE = ROOT / "scripts" / "generate_docs.py"


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_the_template_loads_and_trains_on_what_was_asked_for(gpus: int) -> None:
    run = load_run(commented_run("my-run", gpus=gpus), filename="f", local=True)
    assert run.metadata.name == "my-run"
    (tier,) = run.spec.tiers
    assert (tier.name, tier.gpus, tier.budget.kind) == (("gpu", gpus, "seconds") if gpus else ("cpu", 0, "cpuSeconds"))
    assert run.spec.source.template_name == "tiny-gpt"


def test_the_template_says_only_what_the_defaults_say() -> None:
    run = load_run(commented_run("a", gpus=1), filename="f", local=False)
    plain = ResearchRun.model_validate({"metadata": {"name": "a"}, "spec": {"source": {"template": "tiny-gpt"}}})
    assert run == plain


def test_a_name_that_yaml_would_take_for_something_else_is_quoted() -> None:
    for name in ("123", "1e5", "yes", "null"):
        assert load_run(commented_run(name), filename="f", local=True).metadata.name == name


def commented_lines() -> list[int]:
    return [n for n, line in enumerate(commented_run("a", gpus=1).splitlines()) if re.match(r"^ *#[a-zA-Z]+:", line)]


def test_each_commented_line_of_the_template_loads_when_its_hash_is_taken_away() -> None:
    """But for those that rule out an active line or need a price; these are refused with their sentence."""
    expected = {
        "url": "keep one of them",
        "openai": "both are set",
        "dollars": "needs every price",
        "image": "demo corpus",
    }
    lines = commented_run("a", gpus=1).splitlines()
    numbers = commented_lines()
    assert len(numbers) > 20
    for number in numbers:
        edited = list(lines)
        edited[number] = edited[number].replace("#", "", 1)
        field = edited[number].split(":")[0].strip()
        try:
            load_run("\n".join(edited), filename="f", local=True)
        except InvalidResource as error:
            assert field in expected, str(error)
            assert expected.pop(field) in str(error)
    assert not expected


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("local", [True, False])
def test_the_examples_load_locally_and_in_a_cluster(path: Path, local: bool) -> None:
    run = load_run(path.read_text(encoding="utf-8"), filename=str(path), local=local)
    assert run.metadata.name == path.stem


def test_the_quickstart_needs_no_gpu_and_the_steps_example_repeats() -> None:
    def tier(name: str) -> tuple[int, str]:
        text = (ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8")
        (only,) = load_run(text, filename=name, local=True).spec.tiers
        return only.gpus, only.budget.kind

    assert tier("quickstart") == (0, "cpuSeconds")
    assert tier("steps") == (0, "steps")
    assert tier("laptop-gpu") == (1, "seconds")


def generate(*arguments: str, script: Path = GENERATE) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)


def test_the_reference_matches_the_code() -> None:
    result = generate("--check")
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_page_that_drifted_is_named_and_written_again(tmp_path: Path) -> None:
    script = tmp_path / "scripts" / "generate_docs.py"
    script.parent.mkdir()
    for part in (GENERATE, GENERATE.with_name("generated.py")):
        shutil.copy(part, script.parent)
    missing = generate("--check", script=script)
    assert missing.returncode == 1
    assert missing.stdout.splitlines()[0] == (
        "docs/reference/api.md does not match what it is generated from: run `make generate` and commit the file"
    )
    assert generate(script=script).returncode == 0
    assert generate("--check", script=script).returncode == 0
    page = tmp_path / "docs" / "reference" / "reasons.md"
    page.write_text(page.read_text(encoding="utf-8").replace("Improved", "Better"), encoding="utf-8")
    stale = generate("--check", script=script)
    assert (stale.returncode, stale.stdout.count("\n")) == (1, 1)
    assert "reasons.md" in stale.stdout


def test_every_reason_is_on_the_page() -> None:
    page = (ROOT / "docs" / "reference" / "reasons.md").read_text(encoding="utf-8")
    for reason in reasons.VerdictReason:
        assert f"| `{reason}` |" in page


def test_every_field_is_on_the_page() -> None:
    from autoresearch_operator.api.experiment import Experiment
    from autoresearch_operator.api.fields import every_field

    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    for kind in (ResearchRun, Experiment):
        for path, _ in every_field(kind):
            assert f"| `{path}` |" in page, path
