"""Runs made up for the tests of what people see: the records are the real ones, the figures drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import replace

from autoresearch_operator.api.reasons import ExperimentKind, ExperimentPhase, Verdict, VerdictReason
from autoresearch_operator.observe.facts import RunFacts, TierFacts
from autoresearch_operator.observe.summary import RunSummary, summarise
from autoresearch_operator.research.names import trial_seed
from autoresearch_operator.research.records import (
    Change,
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

NOISE = 0.012
FACTS = RunFacts(
    name="quickstart",
    branch="autoresearch/default-quickstart",
    repository="runs/quickstart/repo.git",
    source="template tiny-gpt",
    base_commit="c0ffee0" + "0" * 33,
    tiers=(TierFacts("cpu", 0, "10 CPU-seconds"),),
    experiments_limit=40,
    data="demo corpus",
    data_public=True,
    isolation={
        "network": "seccomp",
        "files": "landlock-7",
        "processes": "pid-namespace",
        "signals": "pid-namespace",
        "memory": "rlimit+watch",
    },
    hardware={"product": "two cores", "torch": "2.9"},
)
TITLES = (
    "LEARNING_RATE 0.001 -> 0.004",
    "OPTIMIZER adamw -> muon",
    "DEPTH 4 -> 2",
    "MLP_RATIO 4 -> 3",
    "WARMUP .05 -> 0",
)
INVALID = (VerdictReason.NON_FINITE, VerdictReason.CRASHED, VerdictReason.TIMEOUT, VerdictReason.HOST_OUT_OF_MEMORY)


def run_trial(
    number: int,
    purpose: Purpose,
    subject: int,
    index: int,
    score: float | None,
    *,
    phase: TrialPhase = TrialPhase.SCORED,
) -> TrialRecord:
    """One finished trial of ten seconds."""
    start = 1_700_000_000.0 + 10 * subject + index
    return TrialRecord(
        key=TrialKey(number, trial_seed(purpose, subject, index), 1),
        tier="cpu",
        purpose=purpose,
        subject=subject,
        phase=phase,
        val_bpb=score,
        tokens_per_second=18_000.0,
        peak_memory_bytes=612 << 20,
        started_at=start,
        finished_at=start + 12,
        curve=((1000, 6.9), (50_000, 4.1), (200_000, 3.2)),
        cpu_seconds=10.0,
    )


def made_up(candidates: int, *, seed: int = 1, finished: bool = True, facts: RunFacts = FACTS) -> RunSummary:
    """A run of that many candidates in which about one in nine is a real improvement."""
    observed, standing = made_up_records(candidates, seed=seed, finished=finished)
    return summarise(
        facts, observed, standing, now=1_700_000_000.0 + 12 * candidates, state="The search goes on.", finished=finished
    )


def made_up_records(candidates: int, *, seed: int = 1, finished: bool = True) -> tuple[Observed, Standing]:
    """The records and the standing of such a run."""
    dice = random.Random(seed)
    level = 2.88
    incumbent, accepted = 0, 0
    experiments: list[ExperimentRecord] = []
    trials = [run_trial(0, Purpose.BASELINE, 0, index, level + dice.gauss(0, NOISE)) for index in range(5)]
    experiments.append(
        ExperimentRecord(
            0, ExperimentKind.BASELINE, f"{0:040x}", "t" * 40, 0, "the unedited source", "baseline",
            phase=ExperimentPhase.DONE, verdict=Verdict.ACCEPTED, reason=VerdictReason.MEASURED, val_bpb=level,
        )
    )  # fmt: skip
    for number in range(1, candidates + 1):
        kind = ExperimentKind.PROPOSAL
        record = ExperimentRecord(
            number, kind, f"{number:07x}" + "a" * 33, "t" * 40, incumbent, f"{TITLES[number % 5]} ({number})", "search",
            hypothesis="A larger step early on uses the short budget better.",
            changes=(Change("train.py", "LEARNING_RATE", "0.001", "0.004"),), phase=ExperimentPhase.DONE,
        )  # fmt: skip
        draw = dice.random()
        if (draw < 0.11 and accepted < 25) or number == 3:
            gain = abs(dice.gauss(0.3 / (1 + accepted), 0.02)) + 3 * NOISE / (1 + accepted)
            level -= gain
            trials.append(run_trial(number, Purpose.SCREEN, number, 0, level + dice.gauss(0, NOISE)))
            for index in range(2):
                trials.append(run_trial(number, Purpose.CONFIRM, number, index, level + dice.gauss(0, NOISE)))
                trials.append(
                    run_trial(incumbent, Purpose.REFERENCE, number, index, level + gain + dice.gauss(0, NOISE))
                )
                trials.append(run_trial(number, Purpose.REFRESH, number, index, level + dice.gauss(0, NOISE)))
            record = replace(
                record, verdict=Verdict.ACCEPTED, reason=VerdictReason.IMPROVED, val_bpb=level, delta=gain,
                delta_error=NOISE, landed_commit=f"{number:07x}" + "b" * 33,
                message=f"2 runs a side: {gain:+.5f} bits per byte better.",
            )  # fmt: skip
            incumbent, accepted = number, accepted + 1
        elif 0.11 <= draw < 0.2:
            reason = INVALID[number % 4]
            trials.append(
                replace(
                    run_trial(number, Purpose.SCREEN, number, 0, None, phase=TrialPhase.INVALID),
                    reason=reason,
                    detail="ValueError",
                    message="it went wrong",
                )
            )
            record = replace(record, verdict=Verdict.INVALID, reason=reason, message="ValueError: it went wrong")
        else:
            loss = abs(dice.gauss(0, 0.08)) if draw < 0.95 else 2.0
            trials.append(run_trial(number, Purpose.SCREEN, number, 0, level + loss))
            record = replace(
                record, verdict=Verdict.REJECTED, reason=VerdictReason.NOT_BETTER, val_bpb=level + loss, delta=-loss,
                delta_error=NOISE * 1.1,
            )  # fmt: skip
        experiments.append(record)
    final = None
    if finished and accepted:
        kept = [record for record in experiments[1:] if record.verdict is Verdict.ACCEPTED]
        effects = tuple(
            Effect(record.number, dice.gauss(0.02, 0.02), NOISE * 0.8, (True, None, False)[place % 3])
            for place, record in enumerate(kept)
        )
        final = FinalComparison(
            Interval(2.895, NOISE / 5**0.5, 5), Interval(level + 0.015, NOISE / 5**0.5, 5), effects, complete=True
        )
        for place, record in enumerate(kept):
            number = candidates + 1 + place
            experiments.append(
                ExperimentRecord(
                    number, ExperimentKind.ABLATION, f"{number:07x}" + "c" * 33, "t" * 40, incumbent,
                    f"without #{record.number}", "ablation", sources=(record.number,), phase=ExperimentPhase.DONE,
                    verdict=Verdict.REJECTED, reason=VerdictReason.MEASURED, val_bpb=level + 0.03,
                )
            )  # fmt: skip
    standing = Standing(
        incumbent=incumbent,
        incumbent_score=Interval(level, NOISE / 2, 4),
        baseline_score=Interval(2.88, NOISE / 5**0.5, 5),
        noise=NOISE,
        noise_degrees=12 + 2 * accepted,
        decided=candidates,
        accepted=accepted,
        trials_finished=len(trials),
        final=final,
        decided_limit=40,
    )
    return Observed(experiments, trials, 1_700_000_000.0, slots=2), standing


HOSTILE_TITLES = (
    "<script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)> & &amp; {{ 7 * 7 }} {% raw %}',
    "[bold red]not markup[/] [link=http://example.org]x[/link] :smile:",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J \r overwritten",
    "reversed \u202e txt.exe \u2066 isolate \ufeff",
    "two\nlines\tand\ttabs\x00null",
    "$\\frac{1}{2}$ %d %s {0} \\",
    "\U0001f680 rocket \U0001f469\u200d\U0001f52c scientist 中文",
    "lone surrogate \ud800",
    "x" * 4096,
    "",
    " ",
)


def hostile(candidates: int = len(HOSTILE_TITLES), *, finished: bool = True) -> RunSummary:
    """A run whose proposer writes whatever could hurt a reader, in every field that it can fill."""
    observed, standing = made_up_records(candidates, finished=finished)
    experiments = [
        replace(
            record,
            title=HOSTILE_TITLES[place % len(HOSTILE_TITLES)],
            hypothesis=HOSTILE_TITLES[(place + 1) % len(HOSTILE_TITLES)],
            message=HOSTILE_TITLES[(place + 2) % len(HOSTILE_TITLES)],
            proposer=HOSTILE_TITLES[(place + 3) % len(HOSTILE_TITLES)],
        )
        for place, record in enumerate(observed.experiments)
    ]
    trials = [replace(trial, detail=HOSTILE_TITLES[0], message=HOSTILE_TITLES[4]) for trial in observed.trials]
    facts = replace(FACTS, source=HOSTILE_TITLES[1], hardware={"product": HOSTILE_TITLES[0]})
    changed = Observed(experiments, trials, observed.started_at, slots=2)
    return summarise(facts, changed, standing, now=1.8e9, state=HOSTILE_TITLES[2], finished=finished)
