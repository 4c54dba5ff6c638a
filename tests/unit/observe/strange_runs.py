"""Hypothesis strategies: any records at all, consistent or not. What people see must survive them."""

from __future__ import annotations

from autoresearch_operator.api.reasons import ExperimentKind, ExperimentPhase, Verdict, VerdictReason
from autoresearch_operator.observe.facts import RunFacts, TierFacts
from autoresearch_operator.observe.summary import RunSummary, summarise
from autoresearch_operator.research.records import (
    Effect,
    ExperimentRecord,
    FinalComparison,
    Interval,
    Observed,
    Purpose,
    Standing,
    TrialKey,
    TrialPhase,
    TrialRecord,
)
from hypothesis import strategies as st

words = st.text(st.characters(), max_size=60) | st.sampled_from(["", "<b>", "\x1b[2J", "a" * 5000, "\ud800", "\u202e"])
strange = st.sampled_from([float("nan"), float("inf"), float("-inf"), -0.0, 1e-300])
figures = strange | st.floats(-1e6, 1e6) | st.floats(0.5, 4.0)
scores = st.none() | figures
sizes = st.none() | st.integers(0, 2**45)


@st.composite
def experiments(draw: st.DrawFn, number: int) -> ExperimentRecord:
    verdict = draw(st.none() | st.sampled_from(Verdict))
    return ExperimentRecord(
        number=number,
        kind=ExperimentKind.BASELINE if number == 0 else draw(st.sampled_from(list(ExperimentKind)[1:])),
        commit=f"{number:040x}",
        tree="t" * 40,
        base=draw(st.integers(0, max(0, number - 1))),
        title=draw(words),
        proposer=draw(words),
        hypothesis=draw(words),
        sources=tuple(draw(st.lists(st.integers(0, 9), max_size=3))),
        phase=ExperimentPhase.DONE if verdict else draw(st.sampled_from(ExperimentPhase)),
        verdict=verdict,
        reason=draw(st.sampled_from(VerdictReason)) if verdict else None,
        message=draw(words),
        val_bpb=draw(scores),
        delta=draw(scores),
        delta_error=draw(scores),
    )


@st.composite
def trials(draw: st.DrawFn, count: int) -> TrialRecord:
    purpose = draw(st.sampled_from(Purpose))
    return TrialRecord(
        key=TrialKey(draw(st.integers(0, max(0, count - 1))), draw(st.integers(0, 90)), draw(st.integers(1, 3))),
        tier=draw(st.sampled_from(["cpu", "gpu", "unknown"])),
        purpose=purpose,
        subject=draw(st.integers(0, max(0, count))),
        phase=draw(st.sampled_from(TrialPhase)),
        reason=draw(st.none() | st.sampled_from(VerdictReason)),
        detail=draw(words),
        message=draw(words),
        val_bpb=draw(scores),
        tokens_per_second=draw(scores),
        peak_memory_bytes=draw(sizes),
        peak_vram_bytes=draw(sizes),
        started_at=draw(st.floats(0, 2e9)),
        finished_at=draw(st.none() | st.floats(0, 2e9)),
        curve=tuple(draw(st.lists(st.tuples(st.integers(0, 10**12), figures), max_size=3))),
        cpu_seconds=draw(scores),
    )


intervals = st.builds(Interval, mean=figures, error=figures.map(abs), runs=st.integers(0, 9))
effects = st.builds(
    Effect,
    number=st.integers(0, 9),
    delta=st.floats(),
    error=st.floats(),
    helps=st.none() | st.booleans(),
    message=words,
)
finals = st.none() | st.builds(
    FinalComparison, baseline=intervals, head=intervals, effects=st.lists(effects, max_size=3).map(tuple)
)


@st.composite
def summaries(draw: st.DrawFn) -> RunSummary:
    count = draw(st.integers(0, 6))
    observed = Observed(
        [draw(experiments(number)) for number in range(count)],
        draw(st.lists(trials(count), max_size=12)),
        started_at=1e9,
        slots=draw(st.integers(0, 4)),
    )
    standing = Standing(
        incumbent=draw(st.integers(0, 6)),
        incumbent_score=draw(st.none() | intervals),
        baseline_score=draw(st.none() | intervals),
        noise=draw(st.none() | st.sampled_from([0.0, 1e-9, 0.01, 5.0, float("nan"), float("inf")])),
        noise_degrees=draw(st.sampled_from([0, 1, 4, 30])),
        accepted=draw(st.integers(0, 5)),
        final=draw(finals),
        decided_limit=draw(st.none() | st.integers(0, 50)),
    )
    facts = RunFacts(
        draw(words), branch=draw(words), repository=draw(words), source=draw(words),
        evaluation=draw(st.sampled_from(["Verified", "SelfReported"])),
        tiers=(TierFacts("cpu"), TierFacts("gpu", 2, "300 seconds", draw(st.sampled_from([None, 2.0])))),
        experiments_limit=draw(st.none() | st.integers(1, 50)), data_public=draw(st.booleans()),
        isolation=draw(st.sampled_from([{}, {"network": "none"}, {"network": "seccomp", "files": "landlock-7"}])),
        local=draw(st.booleans()),
    )  # fmt: skip
    return summarise(facts, observed, standing, now=2e9, state=draw(words), finished=draw(st.booleans()))
