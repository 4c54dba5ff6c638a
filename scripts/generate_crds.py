#!/usr/bin/env python
"""Writes crds/ and the chart's copy of it from the API's models, or with --check tells whether both are up to date."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from autoresearch_operator.api.crd import KINDS
from generated import ROOT, write_or_check

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


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, files()))
