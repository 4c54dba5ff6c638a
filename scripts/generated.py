"""Writes generated files, or says which of them are out of date: the one `main` of all scripts/generate_*.py."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def write_or_check(description: str | None, files: Mapping[Path, str]) -> int:
    """Carries the command line out: writes what differs, or with --check tells of it and gives exit code 1."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is out of date")
    check, stale = parser.parse_args().check, 0
    for path, text in files.items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        name = path.relative_to(ROOT)
        if check:
            stale += 1
            print(f"{name} does not match what it is generated from: run `make generate` and commit the file")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if stale else 0
