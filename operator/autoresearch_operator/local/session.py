"""From a YAML file and a work folder to a loop that can run, and to the summary of one that has run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_operator.api.load import load_run
from autoresearch_operator.api.run import ResearchRun, ResearchRunSpec
from autoresearch_operator.engine.asking import proposers_of
from autoresearch_operator.engine.candidates import CandidateMaker
from autoresearch_operator.engine.sources import Sources, declared_inputs
from autoresearch_operator.local import data as datasets
from autoresearch_operator.local.machine import Slot, memory_limit, slots
from autoresearch_operator.local.runner import Runner
from autoresearch_operator.local.store import Store
from autoresearch_operator.local.trainer_process import TrainerProcess
from autoresearch_operator.local.trials import GIB, Limits
from autoresearch_operator.local.view import RunView
from autoresearch_operator.observe.facts import RunFacts, facts_of
from autoresearch_operator.observe.summary import RunSummary, summarise
from autoresearch_operator.research.plan import plan
from autoresearch_operator.research.records import Observed
from autoresearch_operator.settings import Settings


class SessionError(Exception):
    """The run cannot be started or read; the message says why and what to do."""


@dataclass
class Session:
    """A run's folder, opened for work or for reading."""

    run: ResearchRun
    store: Store
    sources: Sources
    workdir: Path
    data: Path
    trainer: TrainerProcess | None = None
    """Started ahead, because importing torch takes longer than everything else before the first trial."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        if self.trainer is not None:
            self.trainer.kill()
        self.store.close()

    def facts(self, isolation: dict[str, Any] | None = None, hardware: dict[str, Any] | None = None) -> RunFacts:
        details = self.store.run.details
        manifest = details.get("data", {})
        return facts_of(
            self.run,
            repository=str(self.workdir / "repo.git"),
            base_commit=self.store.run.source_commit,
            seed=self.store.run.seed,
            data=str(manifest.get("name", "")),
            data_public=manifest.get("name") == "demo",
            isolation=isolation if isolation is not None else self.store.state("isolation"),
            hardware=hardware if hardware is not None else self.store.state("hardware"),
        )


def start_or_resume(
    file: Path, workdir: Path | None, *, seed: int | None, data: Path | None, settings: Settings
) -> Session:
    """Reads the request, makes its work folder or opens the one that is there, and makes the data if need be.

    Raises:
        InvalidResource: the file is not a valid ResearchRun.
        SessionError, MachineError, DataError, StoreError, GitError: each a sentence.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SessionError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    run = load_run(text, filename=str(file), local=True)
    _refuse_cluster_only(run.spec)
    slots(run.spec.tiers[0])
    folder = (workdir or Path("runs") / run.metadata.name).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    trainer = TrainerProcess(settings.trainer, folder / "trainer.log")
    try:
        store = _open_or_create(run, text, folder, seed=seed, data=data, settings=settings)
        return _session(run, store, folder, trainer)
    except BaseException:
        trainer.kill()
        raise


def _open_or_create(
    run: ResearchRun, text: str, folder: Path, *, seed: int | None, data: Path | None, settings: Settings
) -> Store:
    if (folder / "run.json").exists() or (folder / "repo.git").exists():
        store = Store.open(folder)
        try:
            _refuse_other_run(_request(store), run, store, seed, data)
        except BaseException:
            store.close()
            raise
        return store
    prepared = data.absolute() if data else datasets.prepare(settings, ["--demo"])
    return _create(run, text, folder, seed=seed or 0, data=prepared)


def read(workdir: Path) -> Session:
    """Opens a run for reading; it may be going on at the same time."""
    folder = workdir.absolute()
    store = Store.open(folder, readonly=True)
    return _session(_request(store), store, folder)


def _session(run: ResearchRun, store: Store, folder: Path, trainer: TrainerProcess | None = None) -> Session:
    repeatable = run.spec.tiers[0].budget.kind == "steps"
    sources = Sources(store.repository, store.run.source_commit, store.run.inputs, repeatable=repeatable)
    return Session(run, store, sources, folder, Path(store.run.details["dataDir"]), trainer)


def _request(store: Store) -> ResearchRun:
    return load_run(store.run.request, filename=str(store.workdir / "researchrun.yaml"), local=True)


def _create(run: ResearchRun, text: str, folder: Path, *, seed: int, data: Path) -> Store:
    manifest = datasets.read_manifest(data)
    source = run.spec.source
    template = None if source.template_name is None else datasets.template_files(source.template_name)
    details = {
        "dataDir": str(data),
        "data": {"name": manifest.get("name"), "identity": manifest.get("identity")},
    }
    return Store.create(
        folder,
        request=text,
        namespace=run.metadata.namespace,
        name=run.metadata.name,
        seed=seed,
        files=template,
        url=None
        if source.url is None
        else str(Path(source.url).expanduser().absolute() if source.is_local else source.url),
        source_ref=source.ref,
        branch=source.branch,
        inputs=declared_inputs(run.spec, sorted(template)) if template is not None else _remote_inputs(run.spec),
        details=details,
    )


def _remote_inputs(spec: ResearchRunSpec) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*spec.source.editable_paths, "*.py")))


def _refuse_cluster_only(spec: ResearchRunSpec) -> None:
    for index, proposer in enumerate(spec.proposers):
        if proposer.openai is not None:
            raise SessionError(
                f"spec.proposers[{index}].openai: this version proposes with the built-in search only; "
                "use search: {} or remove it"
            )
    if len(spec.tiers) > 1:
        raise SessionError(f"spec.tiers: local mode measures on one tier, got {len(spec.tiers)}: keep the first")
    if spec.trainer.data is not None:
        raise SessionError("spec.trainer.data: a claim exists in a cluster only; name a local folder with --data DIR")
    if spec.trainer.script is None:
        raise SessionError(
            f"spec.trainer.command: local mode runs [python, SCRIPT.py], got {list(spec.trainer.command)}: "
            "put arguments into the script"
        )


_FIXED = (
    ("spec.source", lambda run: run.spec.source.model_dump(exclude={"secret_name", "program"})),
    ("spec.trainer", lambda run: run.spec.trainer.model_dump()),
    ("spec.tiers", lambda run: [tier.model_dump(include={"name", "gpus", "budget"}) for tier in run.spec.tiers]),
    ("metadata.name", lambda run: run.metadata.name),
)


def _refuse_other_run(old: ResearchRun, new: ResearchRun, store: Store, seed: int | None, data: Path | None) -> None:
    """What may not change between two starts of one run, because its scores would not compare."""
    mend = f"the run in {store.workdir} has scores made with the old one; give another --workdir"
    for path, part in _FIXED:
        if part(old) != part(new):
            raise SessionError(f"{path} was changed: {mend}")
    if seed is not None and seed != store.run.seed:
        raise SessionError(f"--seed {seed}: the run was started with --seed {store.run.seed}; {mend}")
    if data is not None and str(data.absolute()) != store.run.details["dataDir"]:
        raise SessionError(f"--data {data}: the run was started with {store.run.details['dataDir']}; {mend}")
    there = datasets.read_manifest(Path(store.run.details["dataDir"])).get("identity")
    if there != store.run.details["data"]["identity"]:
        raise SessionError(f"the data in {store.run.details['dataDir']} is not what it was: {mend}")


def make_runner(session: Session, view: RunView, settings: Settings) -> Runner:
    """The loop for an opened session. `session.trainer`, when there is one, is the first that it uses."""
    spec = session.run.spec
    places = slots(spec.tiers[0])
    maker = CandidateMaker(spec, session.sources, proposers_of(spec), session.store.run.seed)

    def start_trainer() -> TrainerProcess:
        trainer = session.trainer or TrainerProcess(settings.trainer, session.workdir / "trainer.log")
        session.trainer = None
        trainer.wait_ready(settings.ready_timeout)
        session.store.save_state(isolation=trainer.isolation, hardware=trainer.hardware, slots=len(places))
        view.started(session.facts(trainer.isolation, trainer.hardware))
        return trainer

    return Runner(
        session.run,
        session.store,
        session.sources,
        maker,
        view,
        places,
        seed=session.store.run.seed,
        data=session.data,
        limits=limits_of(spec, places),
        start_trainer=start_trainer,
        restarts=settings.trainer_restarts,
        stop_timeout=settings.stop_timeout,
    )


def limits_of(spec: ResearchRunSpec, places: Sequence[Slot]) -> Limits:
    """What one trial may use: the request's word, else an equal share of this machine's memory and 2 GiB of disk."""
    resources = spec.trainer.resources
    share = int(memory_limit() * 0.8) // max(1, len(places))
    return Limits(
        memory=resources.memory_bytes or share,
        disk=resources.ephemeral_storage_bytes or 2 * GIB,
    )


def summary_of(session: Session) -> RunSummary:
    """The summary of what the run's folder holds now."""
    loaded = session.store.load()
    now = time.time()
    observed = Observed(
        experiments=loaded.experiments,
        trials=loaded.trials,
        started_at=now - session.store.active_seconds(),
        seed=session.store.run.seed,
        slots=int(session.store.state("slots") or 1),
    )
    current = plan(session.run.spec, observed, now)
    finished = session.store.run.finished
    state = finished or current.message
    return summarise(session.facts(), observed, current.standing, now=now, state=state, finished=bool(finished))
