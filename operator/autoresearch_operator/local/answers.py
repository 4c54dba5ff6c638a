"""The last answer of `results`, kept beside the record so that asking again about a big run takes no time.

It is shown only while every file that it was made from has the size and time that it had then, and by the same
version of this program; it can be deleted at any time.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

from autoresearch_operator.local.durable import write_durable
from autoresearch_operator.observe.resultsview import ResultsView

_FILE = "results.view.json"
_MADE_FROM = ("run.json", "researchrun.yaml", "index.jsonl", "state.json")


def kept_results(workdir: Path) -> ResultsView | None:
    """The view that was kept, while nothing has changed since; None otherwise."""
    try:
        document = json.loads((workdir / _FILE).read_bytes())
        return ResultsView.from_json(document["view"]) if document["madeFrom"] == facts_now(workdir) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_results(workdir: Path, view: ResultsView, made_from: list[object]) -> None:
    """Keeps a view; `made_from` is what `facts_now` gave before the records were read."""
    document = {"madeFrom": made_from, "view": view.as_json()}
    write_durable(workdir / _FILE, json.dumps(document, ensure_ascii=True).encode())


def facts_now(workdir: Path) -> list[object]:
    """What identifies the state of the record: to be taken before it is read, so that a later change shows."""
    facts: list[object] = [metadata.version("autoresearch-operator")]
    for name in _MADE_FROM:
        try:
            found = (workdir / name).stat()
            facts.append([found.st_size, found.st_mtime_ns])
        except OSError:
            facts.append(None)
    return facts
