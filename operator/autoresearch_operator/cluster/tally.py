"""Sums over what a ledger holds, kept up with each save: a scrape must not read through all runs' histories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from types import MappingProxyType
from typing import Final

from autoresearch_operator.api.reasons import ExperimentKind, Verdict
from autoresearch_operator.research.records import ExperimentRecord, Purpose, TrialKey, TrialPhase, TrialRecord

CANDIDATES: Final = (ExperimentKind.PROPOSAL, ExperimentKind.COMBINATION)
"""Kinds that a run's counts are about, as status.counts has them."""
USES: Final = ("search", "final", "invalid", "starved", "lost")
OTHER: Final = "Other"

_USES: Final = {TrialPhase.INVALID: "invalid", TrialPhase.STARVED: "starved", TrialPhase.LOST: "lost"}
_LOST: Final = frozenset(
    (
        # ours
        "JobDeleted", "PodDeleted", "NodeLost", "NoResult", "GateFailed", "UnreadableResult", "QueueEviction",
        "HardwareChanged", "GPUShared",
        # of the condition DisruptionTarget
        "DisruptionTarget", "PreemptionByScheduler", "DeletionByTaintManager", "EvictionByEvictionAPI",
        "DeletionByPodGC", "TerminationByKubelet",
        # the kubelet's
        "Evicted", "UnexpectedAdmissionError", "NodeAffinity", "NodeShutdown", "Preempting", "TopologyAffinityError",
        "StartError", "ContainerCannotRun", "ContainerStatusUnknown",
    )
)  # fmt: skip
"""What the control plane calls its faults. A fault's name can come from any component of a cluster, and each new one
would be a new series."""


def lost_reason(detail: str) -> str:
    """The name of an infrastructure fault, or Other."""
    if detail.startswith("OutOf"):
        return "OutOfResource"  # the kubelet's OutOfcpu, OutOfnvidia.com/gpu …
    return detail if detail in _LOST else OTHER


@dataclass(frozen=True)
class Tally:
    """Finished trials and verdicts, summed up. A value: it is read in one thread while the next one is made in
    another."""

    taken: int = 0
    """Trials in it."""
    ended: Mapping[tuple[str, str, str], int] = field(default_factory=lambda: MappingProxyType({}))
    """(tier, phase, reason) to how many."""
    seconds: Mapping[tuple[str, str], float] = field(default_factory=lambda: MappingProxyType({}))
    """(tier, use) to the time that they held a slot."""
    last: Mapping[str, TrialRecord] = field(default_factory=lambda: MappingProxyType({}))
    """Tier to the trial scored last on the validation split."""
    verdicts: Mapping[tuple[str, str], int] = field(default_factory=lambda: MappingProxyType({}))
    """(verdict, reason) to how many candidates; baseline and ablations are none."""
    accepted_at: float | None = None
    """When the last edit was accepted, seconds since the epoch."""

    def grown(self, trials: Mapping[TrialKey, TrialRecord], experiments: Sequence[ExperimentRecord]) -> Tally:
        """With those that are new in `trials`, which only ever grows at its end, and all verdicts of `experiments`."""
        decided = [each for each in experiments if each.verdict is not None and each.kind in CANDIDATES]
        verdicts = Counter((str(each.verdict), str(each.reason or "")) for each in decided)
        landed = [each.decided_at or 0.0 for each in decided if each.verdict is Verdict.ACCEPTED]
        sums = self._with(islice(trials.values(), self.taken, None))
        return replace(sums, verdicts=verdicts, accepted_at=max(landed, default=None))

    def _with(self, new: Iterable[TrialRecord]) -> Tally:
        taken, ended, seconds, last = self.taken, dict(self.ended), dict(self.seconds), dict(self.last)
        for trial in new:
            taken += 1
            how = trial.tier, str(trial.phase), _reason(trial)
            ended[how] = ended.get(how, 0) + 1
            if trial.finished_at is not None:
                what = trial.tier, use_of(trial)
                seconds[what] = seconds.get(what, 0.0) + max(0.0, trial.finished_at - trial.started_at)
            if trial.phase is TrialPhase.SCORED and trial.purpose is not Purpose.FINAL:
                before = last.get(trial.tier)
                if before is None or _ended(trial) >= _ended(before):
                    last[trial.tier] = trial
        return Tally(taken, ended, seconds, last)


def use_of(trial: TrialRecord) -> str:
    """What a trial's time was spent on: one of USES."""
    return _USES.get(trial.phase, "final" if trial.purpose is Purpose.FINAL else "search")


def _reason(trial: TrialRecord) -> str:
    if trial.phase is TrialPhase.LOST:
        return lost_reason(trial.detail)
    return "" if trial.reason is None else str(trial.reason)


def _ended(trial: TrialRecord) -> tuple[float, int, int, int]:
    """By key when two ended in the same second, so that the order in which they were read does not matter."""
    key = trial.key
    return trial.finished_at or 0.0, key.experiment, key.seed, key.attempt
