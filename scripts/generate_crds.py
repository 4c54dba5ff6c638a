#!/usr/bin/env python
"""Writes crds/ and the chart's copy of it from the API's models, or with --check tells whether both are up to date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml
from autoresearch_operator.api.crd import KINDS

ROOT = Path(__file__).resolve().parent.parent
HEAD = "# Written by scripts/generate_crds.py from the models: change those, then run that script.\n"
FOLDERS = ("crds", "charts/autoresearch-operator/files/crds")


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True


def files() -> dict[Path, str]:
    """Every generated file with its text."""
    made = {}
    for kind in KINDS:
        body = yaml.dump(kind.definition(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
        for folder in FOLDERS:
            made[ROOT / folder / f"{kind.name}.yaml"] = HEAD + body
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is out of date")
    check = parser.parse_args().check
    stale = 0
    for path, text in files().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        name = path.relative_to(ROOT)
        if check:
            stale += 1
            print(f"{name} does not match the models: run `python scripts/generate_crds.py` and commit the file")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
