"""What the controller knows about one run between two passes.

Nothing here must survive: all of it is loaded anew from the ledger, the Experiments and the Jobs.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from autoresearch_operator.api.reasons import ExperimentKind, ProgressingReason, Verdict
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.api.tiers import Tier
from autoresearch_operator.cluster.canaries import Network
from autoresearch_operator.cluster.repositories import PublishState, RunRepository
from autoresearch_operator.cluster.seen import Key, Object
from autoresearch_operator.cluster.tally import Tally
from autoresearch_operator.engine.candidates import CandidateMaker
from autoresearch_operator.manifests.experiment import Place
from autoresearch_operator.manifests.settings import Hardware
from autoresearch_operator.research.records import ExperimentRecord, Observed, Plan, TrialKey, TrialPhase, TrialRecord

FIRST_LOOK = 5.0
"""Seconds until what a run lacks is looked for again the first time; then twice as long each time."""
LONGEST_STEP = 120.0
"""Seconds between two passes that count as active at most: a longer gap means that the operator stood still."""


@dataclass(slots=True)
class Running:
    """A trial whose Job exists, as far as we know."""

    record: TrialRecord
    job: str
    created_at: float
    """When we made the Job or first saw it, seconds since the epoch."""
    seen: bool = False
    """The watch has shown it: if it vanishes now, somebody deleted it."""
    waits: bool = False
    """No node has taken its pod: it holds no GPU, and costs nothing."""

    def charged_from(self, now: float) -> TrialRecord:
        """The record, with a start from which on the trial costs something."""
        return replace(self.record, started_at=now) if self.waits else self.record


@dataclass(slots=True)
class Projected:
    """An Experiment object as last written or seen."""

    uid: str
    commit: str
    looked_at: float
    """When we made it or asked for it, seconds since the epoch."""
    status: Mapping[str, Any] | None = None
    seen: bool = False
    """The watch has shown it: if it vanishes now, somebody deleted it."""
    written_at: float = 0.0


@dataclass(frozen=True, slots=True)
class SourceMap:
    """A ConfigMap with a candidate's files."""

    owner: str
    """UID of the Experiment that it is deleted with."""
    sha256: str
    known_at: float


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why trials do not run: from what Jobs and pods say, or from the API server's refusal."""

    reason: StrEnum
    """A ReadyReason (nothing more is started) or a ProgressingReason."""
    message: str

    @property
    def stops(self) -> bool:
        return not isinstance(self.reason, ProgressingReason)


@dataclass(slots=True)
class Readiness:
    """When it was last looked whether a run has all that its trials need."""

    generation: int = -1
    """Of the request that was looked at."""
    look_at: float = 0.0
    """When to look again, seconds since the epoch."""
    delay: float = FIRST_LOOK
    warned: str = ""


@dataclass
class RunState:
    """One run."""

    key: Key
    uid: str
    body: Object
    """The ResearchRun as last seen."""
    run: ResearchRun
    generation: int
    repository: RunRepository
    maker: CandidateMaker
    seed: int
    experiments: list[ExperimentRecord]
    trials: dict[TrialKey, TrialRecord] = field(default_factory=dict)
    """Finished ones, in the order in which they came to be known."""
    scored: set[tuple[int, int]] = field(default_factory=set)
    """(experiment, seed) of all that has a score."""
    by_subject: dict[int, list[TrialRecord]] = field(default_factory=lambda: defaultdict(list))
    unsaved: bool = False
    """There are finished trials that the ledger does not have yet."""
    running: dict[TrialKey, Running] = field(default_factory=dict)
    places: dict[TrialKey, Place] = field(default_factory=dict)
    hardware: dict[str, Hardware] = field(default_factory=dict)
    """By tier: what the baseline ran on."""
    training: set[TrialKey] = field(default_factory=set)
    """Trials whose candidate was started, of those that run or ended a moment ago."""
    taken_back: dict[str, float] = field(default_factory=dict)
    """Jobs that were training when a queue took back their place, to when that was seen: why is still to be asked."""
    evicted_at: list[float] = field(default_factory=list)
    """When a queue did so because it ran out of patience with a trial, since one was last scored."""
    mended: bool = False
    """The request was edited: trials that could not begin are made anew."""
    retry_at: dict[tuple[int, int], float] = field(default_factory=dict)
    """(experiment, seed) to when its next attempt may begin, seconds since the epoch."""
    exhausted: bool = False
    search_seconds: float = 0.0
    """Seconds that finished trials held their slots."""
    tally: Tally = field(default_factory=Tally)
    """Sums over the trials that are in the ledger: not over those that a kill could still take back."""

    active: float = 0.0
    """Seconds at work, over all starts of the operator; a suspended or finished run does not age."""
    ticked_at: float | None = None
    noted_active: int = -1
    finished: str | None = None
    """What the ledger says about the run's end."""

    objects: dict[int, Projected] = field(default_factory=dict)
    """By number: the Experiments in the cluster."""
    config_maps: dict[int, SourceMap] = field(default_factory=dict)
    """By number: the ConfigMaps that we made or looked at."""
    dirty: set[int] = field(default_factory=set)
    """Experiments whose object or status may not be as the record says."""
    recorded: set[TrialKey] = field(default_factory=set)
    """Trials that an Experiment's status holds as finished: their Jobs are not needed any more."""
    deleted_jobs: set[str] = field(default_factory=set)
    """Deleted by us and perhaps still shown by the watch."""
    pruned: set[int] = field(default_factory=set)
    """Experiments deleted by us and perhaps still shown by the watch."""
    policy_made: bool = False

    hindrances: list[Hindrance] = field(default_factory=list)
    refusal: Hindrance | None = None
    """The API server refused a Job, or the Job controller's pod."""
    refused_at: float = 0.0
    unready: Hindrance | None = None
    """Something that trials need is missing: no Job is made."""
    readiness: Readiness = field(default_factory=Readiness)
    diverged: str = ""
    """Why an accepted edit cannot be landed."""
    diverged_at: float = 0.0
    isolation: Mapping[str, Any] | None = None
    """Which walls the launcher of the last scored trial reported."""
    network: Network | None = None
    """What is known of the namespace's network; None: the run has not needed to know since the operator's start."""
    plan: Plan = field(default_factory=Plan)
    settled: bool = False
    """`plan` was carried out as far as it could be, and nothing has happened since."""
    think_at: float | None = None
    """When it is to be thought over even so, seconds since the epoch."""
    shown: int = 0
    """Tells whether the watches show anything new since the last pass."""
    look_at: float | None = None
    """When the last pass wanted the next one, seconds since the epoch."""
    notes: list[tuple[str, str, str]] = field(default_factory=list)
    """Events to be recorded: type, reason, message."""
    publishing: asyncio.Task[PublishState] | None = None
    published: PublishState | None = None
    publish_wanted: bool = True
    publish_after: float = 0.0
    """What was saved is not offered to the git server before, seconds since the epoch."""
    publish_at: float | None = None
    """When the publisher wants to be asked again although nothing was saved."""

    status: Mapping[str, Any] | None = None
    """The run's status as last written; None: as in `body`."""
    status_at: float = 0.0
    events_read_at: float = 0.0

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def tier(self) -> Tier:
        """The tier that is measured on. This version plans for the first."""
        return self.run.spec.tiers[0]

    @property
    def slots(self) -> int:
        """Trials that may run at once."""
        return 1 if self.tier.max_parallel is None else self.tier.max_parallel

    @property
    def obstacles(self) -> list[Hindrance]:
        """All that keeps trials from running, what stops the run first."""
        found = [*(one for one in (self.refusal, self.unready) if one is not None), *self.hindrances]
        return sorted(found, key=lambda one: not one.stops)

    def tick(self, now: float) -> None:
        """Lets the run's own time go on, unless it is suspended with nothing running, or finished."""
        before, self.ticked_at = self.ticked_at, now
        at_rest = self.finished is not None or (self.run.spec.suspend and not self.running)
        if before is not None and not at_rest:
            self.active += min(max(0.0, now - before), LONGEST_STEP)

    def observed(self, now: float) -> Observed:
        """What `plan` looks at."""
        return Observed(
            experiments=list(self.experiments),
            trials=[*self.trials.values(), *(running.charged_from(now) for running in self.running.values())],
            started_at=now - self.active,
            seed=self.seed,
            exhausted=self.exhausted,
            suspended=self.run.spec.suspend,
            slots=self.slots,
        )

    def add_trials(self, finished: Iterable[TrialRecord]) -> None:
        """Takes in finished trials. One that is known already stays as it is: a result is final."""
        for trial in finished:
            self.running.pop(trial.key, None)
            if trial.key in self.trials:
                continue
            self.trials[trial.key] = trial
            self.by_subject[trial.subject].append(trial)
            if trial.phase is TrialPhase.SCORED:
                self.scored.add((trial.key.experiment, trial.key.seed))
            self.dirty.add(trial.subject)
            if trial.finished_at is not None:
                self.search_seconds += max(0.0, trial.finished_at - trial.started_at)

    def details(self) -> dict[str, Any]:
        """What the ledger's run.json is to say beside the records.

        Active time in steps of ten seconds: it is written with what is saved anyway, and must not change every time.
        """
        return {
            "active_seconds": int(self.active) // 10 * 10,
            "finished": self.finished,
            "hardware": {
                tier: {"product": pinned.product, "driver": pinned.driver, "imageID": pinned.image_id}
                for tier, pinned in sorted(self.hardware.items())
            },
        }

    def is_kept(self, number: int, newest: frozenset[int]) -> bool:
        """Whether an Experiment belongs into the cluster; `newest` are the decided ones that are kept for a while."""
        record = self.experiments[number]
        return number == 0 or record.verdict is None or record.verdict is Verdict.ACCEPTED or number in newest

    def newest_decided(self, most: int) -> frozenset[int]:
        """The last `most` decided experiments, without those that are kept anyway."""
        found: list[int] = []
        for record in reversed(self.experiments):
            if len(found) >= most:
                break
            if record.number > 0 and record.verdict is not None and record.verdict is not Verdict.ACCEPTED:
                found.append(record.number)
        return frozenset(found)

    def counted(self) -> list[ExperimentRecord]:
        """Candidates, without the baseline and without the ablations of the final comparison."""
        return [r for r in self.experiments if r.kind in (ExperimentKind.PROPOSAL, ExperimentKind.COMBINATION)]


def hardware_from(details: Mapping[str, Any]) -> dict[str, Hardware]:
    """Pins from the ledger's details; what is unreadable is pinned anew by the next baseline run."""
    found: dict[str, Hardware] = {}
    pins = details.get("hardware")
    for tier, pin in pins.items() if isinstance(pins, Mapping) else ():
        if isinstance(pin, Mapping):
            found[str(tier)] = Hardware(pin.get("product"), pin.get("driver"), pin.get("imageID"))
    return found
