"""README names commands, targets and pages that exist."""

from __future__ import annotations

import re
from pathlib import Path

from autoresearch_operator.cli import app
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text()


def test_every_command_in_the_readme_exists() -> None:
    known = set(get_command(app).commands)  # type: ignore[attr-defined] # a group of commands
    named = set(re.findall(r"bin/autoresearch ([a-z]+)", README))
    assert named
    assert named <= known


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", README)) - {"lists"}
    assert {"quickstart", "test"} <= named
    assert named <= targets


def test_every_page_that_the_readme_links_to_exists() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link
