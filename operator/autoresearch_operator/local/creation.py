"""The first files of a run's work folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoresearch_operator.gateways.codec import dumps
from autoresearch_operator.gateways.git import Repository
from autoresearch_operator.gateways.model import TEMPLATE_TIME
from autoresearch_operator.gateways.process import Access
from autoresearch_operator.gateways.remote import clone
from autoresearch_operator.local.durable import quarantine, write_durable
from autoresearch_operator.local.workfiles import RunFile, StoreError, run_as_json
from autoresearch_operator.research.names import default_branch, ledger_ref


def make_run(
    workdir: Path,
    *,
    request: str,
    namespace: str,
    name: str,
    seed: int,
    files: Mapping[str, bytes] | None,
    url: str | None,
    source_ref: str,
    branch: str | None,
    inputs: Sequence[str],
    details: Mapping[str, Any],
    access: Access,
    started_at: float,
) -> tuple[RunFile, Repository]:
    """Fills `workdir`, which the caller holds under its lock; run.json comes last and makes it a run.

    Raises:
        StoreError: there is a run in the folder. And what `Repository.create` and `clone` raise.
    """
    if (workdir / "run.json").exists():
        raise StoreError(f"{workdir} holds a run already: resume it, or give another --workdir")
    branch_ref = f"refs/heads/{branch or default_branch(namespace, name)}"
    if (workdir / "repo.git").exists():
        quarantine(workdir / "repo.git")
    if files is not None:
        repository = Repository.create(
            workdir / "repo.git", files, branch_ref=branch_ref, message=f"{name}: the source\n",
            when=TEMPLATE_TIME, access=access,
        )  # fmt: skip
        source = repository.resolve(branch_ref)
    else:
        repository, source = clone(workdir / "repo.git", url or "", source_ref, branch_ref, access=access)
    pack = repository.snapshot(source)
    write_durable(workdir / "source.pack", pack)
    write_durable(workdir / "researchrun.yaml", request.encode("utf-8", "replace"))
    run = RunFile(
        namespace=namespace,
        name=name,
        seed=seed,
        started_at=started_at,
        branch_ref=branch_ref,
        ledger_ref=ledger_ref(namespace, name),
        source_commit=source,
        pack_sha256=hashlib.sha256(pack).hexdigest(),
        request=request,
        source_url=url,
        source_ref=source_ref if url else None,
        inputs=tuple(inputs),
        details=dict(details),
    )
    for folder in ("experiments", "trials"):
        (workdir / folder).mkdir(exist_ok=True)
    write_durable(workdir / "run.json", dumps(run_as_json(run)))
    return run, repository
