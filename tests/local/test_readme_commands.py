"""README's first command, as a stranger types it: in a clean clone, with nothing set up."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHORT = """
apiVersion: autoresearch.dev/v1alpha1
kind: ResearchRun
metadata: {name: quickstart}
spec:
  source: {template: tiny-gpt}
  proposers: [{search: {}}]
  tiers: [{name: cpu, gpus: 0, budget: {steps: 3}}]
  limits: {experiments: 2}
"""


@pytest.mark.timeout(900)
def test_make_quickstart_in_a_clean_clone_ends_with_a_branch_and_a_report(tmp_path: Path) -> None:
    """The same target with a shorter request: its 8 minutes are measured by tests/perf/bench_quickstart.py."""
    clone, request = tmp_path / "clone", tmp_path / "short.yaml"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    request.write_text(SHORT)
    # What a person's shell has, and nothing of this environment.
    keep = ("HOME", "PATH", "LANG", "XDG_CACHE_HOME", "AUTORESEARCH_CACHE", "TMPDIR")
    named = ("PIP_", "UV_", "SSL_", "REQUESTS_", "CURL_")  # how this machine reaches its package index
    environment = {
        k: v for k, v in os.environ.items() if k in keep or k.startswith(named) or k.lower().endswith("proxy")
    }
    bin_folder = str(ROOT / ".venv" / "bin")
    environment["PATH"] = os.pathsep.join(p for p in environment["PATH"].split(os.pathsep) if p != bin_folder)
    done = subprocess.run(
        ["make", "quickstart", f"QUICKSTART={request}"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"Set-up took \d+ s", done.stderr)
    folder = clone / "runs" / "quickstart"
    for name in ("report.html", "progress.png", "results.tsv"):
        assert (folder / name).stat().st_size > 0
    log = subprocess.run(
        ["git", "-C", str(folder / "repo.git"), "log", "--oneline", "autoresearch/default-quickstart"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert log.stdout.strip()
    status = subprocess.run(["git", "status", "--porcelain"], cwd=clone, check=True, capture_output=True, text=True)
    assert status.stdout == "", "the quickstart leaves untracked files in the checkout"
