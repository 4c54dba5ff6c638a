"""Names and forms of the files in a work folder.

run.json                        what the run is (RunFile)
researchrun.yaml                the request as the person wrote it
source.pack                     the source commit as a git pack, to rebuild repo.git from
repo.git/                       branch and ledger
experiments/00017.json          record, and what its commit is made of
trials/00017/cpu-s17-a1.json    record of one trial
trials/00017/cpu-s17-a1/        the trial's own folder: result.json (by the trainer), output.log, spec.json
trials/00017/source/            the candidate's files, as trials read them
index.jsonl                     a compact copy of all records
state.json                      small figures that outlive a stop
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autoresearch_operator.gateways.codec import as_json
from autoresearch_operator.gateways.errors import GitError
from autoresearch_operator.gateways.git import Repository
from autoresearch_operator.gateways.writer import Writer
from autoresearch_operator.local.durable import DamagedFile
from autoresearch_operator.research.names import trial_name
from autoresearch_operator.research.records import ExperimentRecord, TrialKey

VERSION = 1


class StoreError(Exception):
    """The work folder cannot be used; the message says why and what to do."""


class NotARun(StoreError):
    """There is no run in the folder."""


class BranchMoved(StoreError):
    """The branch holds a person's commits that change what trials read; nothing was landed."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """What a run is. Written once, and again when it is finished; a copy of it is in the ledger."""

    namespace: str
    name: str
    seed: int
    started_at: float
    """Seconds since the epoch."""
    branch_ref: str
    ledger_ref: str
    source_commit: str
    pack_sha256: str
    """Of source.pack."""
    request: str
    """The YAML as the person wrote it."""
    source_url: str | None = None
    source_ref: str | None = None
    inputs: tuple[str, ...] = ()
    """Declared files that trials read; empty: all. A person's commit that leaves them alone changes no score."""
    details: dict[str, Any] = field(default_factory=dict)
    """What else the loop wants to remember from the start."""
    finished: str | None = None
    """Why the run ended; None while it goes on."""
    version: int = VERSION


_RUN = TypeAdapter(RunFile)


def run_as_json(run: RunFile) -> dict[str, Any]:
    return dataclasses.asdict(run) | {"inputs": list(run.inputs)}


def run_from_json(value: object, where: str) -> RunFile:
    """Raises DamagedFile: not a run of a version we know."""
    try:
        run = _RUN.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DamagedFile(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if run.version != VERSION:
        raise DamagedFile(f"{where} is of version {run.version}; this program reads version {VERSION}")
    return run


def experiment_path(number: int) -> str:
    return f"experiments/{number:05d}.json"


def trial_path(key: TrialKey, tier: str) -> str:
    return f"trials/{key.experiment:05d}/{trial_name(tier, key)}.json"


def trial_folder(workdir: Path, key: TrialKey, tier: str) -> Path:
    return (workdir / trial_path(key, tier)).with_suffix("")


def experiment_document(record: ExperimentRecord, repository: Repository, source_commit: str) -> dict[str, Any]:
    """All that is needed to write the experiment's commits again, under the same names.

    Raises:
        GitError: its commit is not an edit on one parent.
        RepositoryDamaged: its commit is not in the repository.
    """
    document: dict[str, Any] = {"version": VERSION, "record": as_json(record)}
    if record.commit != source_commit:
        commit = repository.commit(record.commit)
        files = repository.changed_files(commit.parents[0], commit.sha) if len(commit.parents) == 1 else None
        if files is None:
            raise GitError(f"experiment {record.number}: commit {commit.sha[:12]} must edit or add files of one parent")
        entries = repository.entries(commit.sha)
        document["source"] = {
            "parent": commit.parents[0],
            "message": commit.message,
            "when": commit.when,
            "files": {path: _as_text(content) for path, content in files.items()},
            "modes": {path: entries[path].mode for path in files if entries[path].mode != "100644"},
        }
    if record.landed_commit is not None and record.landed_commit not in {record.commit, source_commit}:
        landed = repository.commit(record.landed_commit)
        document["landing"] = {
            "parent": landed.parents[0],
            "tree": landed.tree,
            "message": landed.message,
            "when": landed.when,
        }
    return document


def rewrite_commits(document: Mapping[str, Any], writer: Writer, present: set[str]) -> set[str]:
    """Writes the commits of an experiment's document that are not `present`, and gives their names.

    Raises:
        KeyError, TypeError, ValueError: the document is not one of `experiment_document`.
    """
    made: set[str] = set()
    record, source, landing = document["record"], document.get("source"), document.get("landing")
    if source is not None and record["commit"] not in present:
        files = {path: _as_bytes(text) for path, text in source["files"].items()}
        made.add(
            writer.commit(
                parents=(source["parent"],),
                message=source["message"],
                when=source["when"],
                changed=files,
                modes=source["modes"],
            )[0]
        )
    if landing is not None and record["landed_commit"] not in present:
        parents = (landing["parent"],)
        made.add(
            writer.commit(parents=parents, message=landing["message"], when=landing["when"], tree=landing["tree"])[0]
        )
    return made


def _as_text(content: bytes) -> str | dict[str, str]:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode("ascii")}


def _as_bytes(value: str | dict[str, str]) -> bytes:
    return value.encode("utf-8") if isinstance(value, str) else base64.b64decode(value["base64"], validate=True)
