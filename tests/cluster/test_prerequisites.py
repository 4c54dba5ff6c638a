"""What a person reads who has not all it takes to run a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clusterlab import tools

ROOT = Path(__file__).resolve().parents[2]


def harness_tests(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """One cluster test in a pytest of its own, with an empty cache and nothing on the path."""
    hidden = {"PATH": str(folder), "AUTORESEARCH_CACHE": str(folder / "cache")}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AUTORESEARCH_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "tests/cluster/test_harness.py", "-k", "restricted_level"],
        cwd=ROOT,
        env=kept | hidden | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_without_go_the_tests_are_skipped_with_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    done = harness_tests(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 skipped" in done.stdout
    assert "install Go 1.26 or newer (https://go.dev/dl)" in done.stdout


def test_where_a_cluster_is_required_a_missing_prerequisite_is_a_failure(tmp_path: Path) -> None:
    done = harness_tests(tmp_path, AUTORESEARCH_REQUIRE_CLUSTER="1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "install Go 1.26 or newer (https://go.dev/dl)" in done.stdout
    assert "AUTORESEARCH_REQUIRE_CLUSTER=1 makes this a failure" in done.stdout


def test_a_go_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go1.19.8\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(tools.ToolsMissing, match=r"is not Go 1\.26 or newer \(go1\.19\.8\)"):
        tools.go()


def test_a_failed_build_leaves_nothing_behind_and_says_gos_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "go"
    broken.write_text("#!/bin/sh\n[ $1 = env ] && echo go1.26.8 && exit\necho 'no required module' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    with pytest.raises(tools.ToolsMissing, match="no required module"):
        tools.build(["kwok"], say=lambda _: None)
    assert not tools.is_built("kwok")
    assert [path.name for path in tools.cache().iterdir()] == [".kwok.lock"]


def test_an_unknown_tool_group_is_answered_with_those_there_are() -> None:
    with pytest.raises(tools.ToolsMissing, match="choose from kubernetes, etcd, kwok"):
        tools.build(["kubernets"])


def test_no_go_module_file_names_a_proxy() -> None:
    for file in sorted(tools.MODULES.glob("*/go.*")):
        assert "://" not in file.read_text(), file
