"""Whether a run's trials could start at all: looked at before Jobs are made, so that nothing waits without a word.

What is not known is never held against a run: a claim or nodes that may not be read are taken for good.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from autoresearch_operator.api.reasons import ReadyReason
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.api.tiers import Tier
from autoresearch_operator.cluster.doctor_places import fitting, places
from autoresearch_operator.cluster.doctor_runs import claim_finding, parallel_trials
from autoresearch_operator.cluster.options import Options
from autoresearch_operator.cluster.seen import Cluster, KubeError, Object
from autoresearch_operator.cluster.state import FIRST_LOOK, Hindrance, RunState
from autoresearch_operator.manifests import job
from autoresearch_operator.manifests.settings import TrialSettings
from autoresearch_operator.observe.findings import Finding
from autoresearch_operator.research.records import TrialStart

logger = logging.getLogger(__name__)

GOOD_FOR = 300.0
"""Seconds that a good answer holds: a claim is deleted seldom, and then the scheduler's own sentence says so."""
LONGEST_LOOK = 60.0
"""Seconds between two looks at a bad answer at most: it is what a person waits for after a fix."""
_FORBIDDEN = 403
_SHARED = frozenset({"ReadOnlyMany", "ReadWriteMany"})


def claim_sentence(run: ResearchRun, claim: Object | None, *, nodes: int | None) -> str | None:
    """Why the data claim cannot serve the run's trials, and what to do; None: it can.

    `nodes` that trials may run on; None: not known, and then one is assumed, as on a machine of one's own.
    """
    data = run.spec.trainer.data
    if data is None:
        return None
    name = f"PersistentVolumeClaim {data.claim_name}"
    if claim is not None:
        if claim["metadata"].get("deletionTimestamp"):
            return f"{name} is being deleted: make it anew and prepare the data again."
        spec, phase = claim.get("spec", {}), claim.get("status", {}).get("phase") or "Pending"
        # One that is filled from a snapshot or from another claim holds data although it waits for its first pod.
        copied = spec.get("dataSource") or spec.get("dataSourceRef")
        if phase == "Pending" and not copied:
            return (
                f"{name} has no volume yet, so there is no data in it: fill it with `autoresearch prepare --claim "
                f"{data.claim_name} --apply`; if it stays Pending, kubectl describe pvc {data.claim_name} says why."
            )
    finding = claim_finding(name, run, claim, nodes=1 if nodes is None else nodes)
    if finding.status != "fail":
        return None
    return _joined(finding.value if claim is None else f"{name}: {finding.value}", finding)


def claim_warning(run: ResearchRun, claim: Object) -> str | None:
    """What may go wrong with a claim when nobody may look at nodes; None: nothing."""
    data, trials = run.spec.trainer.data, parallel_trials(run)
    modes = claim.get("status", {}).get("accessModes") or claim.get("spec", {}).get("accessModes") or ()
    if data is None or trials < 2 or _SHARED & set(modes):
        return None
    return (
        f"PersistentVolumeClaim {data.claim_name} is {', '.join(modes)}, and {trials} trials may run at once: those on "
        "another node than the first would wait for the volume. With more than one node, use a claim with ReadOnlyMany "
        "or ReadWriteMany, or keep the tier on one node with nodeSelector."
    )


def node_sentence(tier: Tier, pod: Mapping[str, Any], nodes: Sequence[Object]) -> str | None:
    """Why no node can ever take the tier's trials, and what to do; None: one can, be it busy or cordoned now.

    `pod` is the spec of a trial's pod.
    """
    found = fitting(f"tier {tier.name}", tier, pod, places(nodes, None))
    return _joined(f"tier {tier.name}: {found.value}", found) if isinstance(found, Finding) else None


def matching(tier: Tier, pod: Mapping[str, Any], nodes: Sequence[Object]) -> int:
    """How many nodes the tier's trials fit on, be these busy or cordoned now."""
    found = fitting("", tier, pod, places(nodes, None))
    return 0 if isinstance(found, Finding) else len(found)


def _joined(said: str, finding: Finding) -> str:
    return f"{said}. {finding.advice}".strip()


async def check(
    cluster: Cluster, state: RunState, start: TrialStart, settings: TrialSettings, options: Options, now: float
) -> float | None:
    """Looks at what the run's next trial needs, when that is due, and notes in `state.unready` what is missing.

    When to look again, if something is missing; None: the trial can start. Raises KubeError.
    """
    known = state.readiness
    if known.generation != state.generation or now >= known.look_at:
        if known.generation != state.generation:
            known.generation, known.delay = state.generation, FIRST_LOOK
        state.unready = await _missing(cluster, state, start, settings, options, now)
        known.look_at = now + (GOOD_FOR if state.unready is None else known.delay)
        known.delay = FIRST_LOOK if state.unready is None else min(2 * known.delay, LONGEST_LOOK)
    return None if state.unready is None else known.look_at


async def _missing(
    cluster: Cluster, state: RunState, start: TrialStart, settings: TrialSettings, options: Options, now: float
) -> Hindrance | None:
    spec = state.run.spec
    nodes: Sequence[Object] | None = None
    possible: int | None = None
    try:
        nodes = await cluster.list("nodes", None) if options.nodes_readable else None
    except KubeError as error:
        _pass_over("nodes", error)
    if nodes is not None:
        record = state.experiments[start.key.experiment]
        made = job.trial_job(state.body, spec, start, record, "0" * 64, settings, now=now)
        pod = made["spec"]["template"]["spec"]
        sentence = node_sentence(state.tier, pod, nodes)
        if sentence is not None:
            return Hindrance(ReadyReason.NO_MATCHING_NODE, sentence)
        possible = matching(state.tier, pod, nodes)
    if spec.trainer.data is None:
        return None
    try:
        claim = await cluster.get("persistentvolumeclaims", state.key.namespace, spec.trainer.data.claim_name)
    except KubeError as error:
        _pass_over("claims", error)
        return None
    sentence = claim_sentence(state.run, claim, nodes=possible)
    if sentence is not None:
        return Hindrance(ReadyReason.DATA_NOT_SHARED, sentence)
    if claim is not None and possible is None:
        _warn(state, claim_warning(state.run, claim))
    return None


def _pass_over(what: str, error: KubeError) -> None:
    """Takes what may not be read for good, as with roles of one's own making; raises any other error."""
    if error.status != _FORBIDDEN:
        raise error
    logger.info("%s may not be read, so the run starts without a look at them: %s", what, error.message)


def _warn(state: RunState, warning: str | None) -> None:
    if warning is not None and warning != state.readiness.warned:
        state.readiness.warned = warning
        state.notes.append(("Warning", str(ReadyReason.DATA_NOT_SHARED), warning))
