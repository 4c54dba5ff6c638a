"""One summary: its figures are right and survive whatever was recorded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from autoresearch_operator.api.reasons import VerdictReason
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.observe.exports import results_json, results_tsv, write_json
from autoresearch_operator.observe.facts import budget_words, facts_of, isolation_statement
from autoresearch_operator.observe.power import smallest_effect
from autoresearch_operator.observe.summary import RunSummary, final_trials, summarise
from autoresearch_operator.observe.tables import render, results_text, show_text
from autoresearch_operator.observe.why import explain, looks_of
from autoresearch_operator.research.accept import Rules
from autoresearch_operator.research.records import Interval, Observed, Purpose, Standing
from hypothesis import given, settings
from observed_runs import FACTS, NOISE, made_up, made_up_records, run_trial
from rich.cells import cell_len
from strange_runs import summaries


@settings(max_examples=40, deadline=None)
@given(summaries())
def test_whatever_was_recorded_can_be_summarised_tabled_explained_and_exported(summary: RunSummary) -> None:
    table = render(results_text(summary, width=80), width=80)
    assert all(cell_len(line) <= 80 for line in table.split("\n"))
    assert "\x1b" not in table
    for row in summary.rows:
        assert "\x1b" not in render(show_text(summary, row.number, diff="-a\n+\x1bb\n"), width=80)
    tsv = results_tsv(summary).splitlines()
    assert len({line.count("\t") for line in tsv}) == 1
    write_json(summary).encode("utf-8")


def test_a_step_is_scored_by_runs_that_had_no_part_in_accepting_it() -> None:
    observed, standing = made_up_records(20)
    summary = summarise(FACTS, observed, standing, now=1.8e9)
    for step in summary.steps:
        fair = [
            trial.val_bpb
            for trial in observed.trials
            if trial.key.experiment == step.number
            and trial.purpose in (Purpose.BASELINE, Purpose.REFRESH, Purpose.REFERENCE)
            and trial.val_bpb is not None
        ]
        assert step.score.mean == pytest.approx(sum(fair) / len(fair))
        assert step.score.error == pytest.approx(NOISE / len(fair) ** 0.5)
        assert step.low < step.score.mean < step.high
        assert not step.provisional


def test_a_new_incumbent_is_provisional_until_it_has_runs_of_its_own() -> None:
    observed, standing = made_up_records(4, finished=False)
    trials = [
        trial for trial in observed.trials if not (trial.key.experiment == 4 and trial.purpose is Purpose.REFRESH)
    ]
    summary = summarise(FACTS, replace(observed, trials=trials), standing, now=1.8e9)
    assert summary.steps[-1].number == 4
    assert summary.steps[-1].provisional


def test_invalid_candidates_have_no_score_and_are_counted_by_reason() -> None:
    summary = made_up(60)
    invalid = [row for row in summary.rows if row.outcome in ("NonFinite", "Crashed", "Timeout", "HostOutOfMemory")]
    assert invalid
    assert all(row.val_bpb is None for row in invalid)
    assert sum(summary.reasons.values()) == 60
    assert sum(summary.verdicts.values()) == 60
    assert list(summary.reasons.values()) == sorted(summary.reasons.values(), reverse=True)


def test_spend_counts_slots_cpu_seconds_and_gpu_hours() -> None:
    summary = made_up(10)
    assert summary.spend.slot_seconds == pytest.approx(12 * summary.spend.trials)
    assert summary.spend.cpu_seconds == pytest.approx(10 * summary.spend.trials)
    assert summary.spend.gpu_hours == 0
    tier = replace(FACTS.tiers[0], gpus=2, price_per_gpu_hour=3.0)
    observed, standing = made_up_records(10)
    on_gpus = summarise(replace(FACTS, tiers=(tier,)), observed, standing, now=1.8e9).spend
    assert on_gpus.gpu_hours == pytest.approx(2 * on_gpus.slot_seconds / 3600)
    assert on_gpus.dollars == pytest.approx(3 * on_gpus.gpu_hours)
    unpriced = replace(tier, price_per_gpu_hour=None)
    assert summarise(replace(FACTS, tiers=(unpriced,)), observed, standing, now=1.8e9).spend.dollars is None


def test_a_clock_set_back_costs_nothing() -> None:
    trial = replace(run_trial(0, Purpose.BASELINE, 0, 0, 2.8), started_at=2000.0, finished_at=1000.0)
    summary = summarise(FACTS, Observed([], [trial], 0.0), Standing(0, None, None, None, 0), now=500.0)
    assert summary.spend.slot_seconds == 0


def test_time_to_go_needs_three_candidates_and_counts_the_final_comparison() -> None:
    assert made_up(2, finished=False).eta_seconds is None
    far, near = made_up(10, finished=False).eta_seconds, made_up(30, finished=False).eta_seconds
    assert far is not None and near is not None
    assert far > near > 0
    assert made_up(30, finished=True).eta_seconds == 0
    assert (final_trials(0), final_trials(1), final_trials(3)) == (0, 10, 13)


def test_the_smallest_effect_is_between_two_and_four_noise_units() -> None:
    card = made_up(10).noise
    assert card.sd is not None and card.smallest_effect is not None
    assert 1.5 <= card.smallest_effect / card.sd <= 4


def test_the_smallest_effect_is_unknown_without_noise_and_the_minimum_where_runs_repeat_exactly() -> None:
    assert smallest_effect(None, 0, Rules()) is None
    assert smallest_effect(0.0, 4, Rules(min_improvement=0.01)) == 0.01


def test_a_combination_of_figures_in_json_equals_those_of_the_table_and_the_tsv() -> None:
    summary = made_up(25)
    document = results_json(summary)
    lines = [line.split("\t") for line in results_tsv(summary).splitlines()]
    header, body = lines[0], lines[1:]
    assert header[:5] == ["commit", "val_bpb", "memory_gb", "status", "description"]
    by_number = {int(line[header.index("number")]): line for line in body}
    for row in document["experiments"]:
        if row["kind"] == "Ablation":
            assert row["number"] not in by_number
            continue
        line = by_number[row["number"]]
        assert line[0] == row["commit"][:7]
        assert float(line[1]) == pytest.approx(row["valBPB"] or 0.0, abs=1e-6)
        assert line[3] == {"Improved": "keep", "Measured": "keep", "NotBetter": "discard"}.get(row["outcome"], "crash")


def test_an_accepted_edit_is_explained_by_its_looks() -> None:
    summary = made_up(25)
    row = summary.kept[0]
    looks = looks_of(summary, row)
    assert [look.runs for look in looks] == [2]
    assert looks[0].t > looks[0].needed
    why = explain(summary, row)
    assert "Accepted" in why.headline
    assert any("2 fresh runs on each side" in sentence and "enough" in sentence for sentence in why.sentences)
    assert why.more == ""


def test_a_rejected_idea_says_by_how_much_and_what_more_runs_could_do() -> None:
    summary = made_up(25)
    row = next(row for row in summary.rows if row.reason is VerdictReason.NOT_BETTER)
    why = explain(summary, row)
    assert any("noise units) worse" in sentence for sentence in why.sentences)
    assert "would not help" in why.more
    near = replace(row, delta=0.8 * NOISE)
    assert "further trials" in explain(summary, near).more


def test_an_invalid_one_names_the_exception() -> None:
    summary = made_up(60)
    row = next(row for row in summary.rows if row.reason is VerdictReason.CRASHED)
    why = explain(summary, row)
    assert "Crashed (ValueError)" in why.headline
    assert "valid score is missing" in why.more


def test_the_demo_corpus_is_verified_not_isolated() -> None:
    statement = isolation_statement(FACTS)
    assert statement.headline == "Verified, not isolated"
    assert "demo corpus is public on this machine" in statement.because
    assert all(held for _, held, _ in statement.protections)


def test_a_missing_protection_is_named() -> None:
    statement = isolation_statement(replace(FACTS, isolation={"network": "none", "files": "landlock-4"}))
    assert ("No network", False, "not offered by this machine") in statement.protections
    elsewhere = isolation_statement(replace(FACTS, isolation={"network": "none"}, data_public=False, local=False))
    assert elsewhere.because.startswith("missing: no network; no files but its own (not recorded)")


def test_self_reported_scores_say_so_everywhere() -> None:
    summary = made_up(5, facts=replace(FACTS, evaluation="SelfReported"))
    assert summary.isolation.headline == "Self-reported, not verified"
    assert "SELF-REPORTED" in render(results_text(summary))


def test_the_final_gain_has_an_interval() -> None:
    gain = made_up(25).final_gain
    assert gain is not None
    assert gain[1] < gain[0] < gain[2]
    observed, standing = made_up_records(25)
    assert standing.final is not None
    broken = replace(standing, final=replace(standing.final, head=Interval(float("nan"), 0.1, 5)))
    assert summarise(FACTS, observed, broken, now=1.8e9).final_gain is None


def test_facts_come_from_the_yaml() -> None:
    run = ResearchRun.model_validate(
        {
            "metadata": {"name": "first"},
            "spec": {
                "tiers": [{"name": "cpu", "gpus": 0, "budget": {"cpuSeconds": 10.0}}],
                "acceptance": {"looks": [2, 4], "significance": 0.02},
                "limits": {"experiments": 7},
            },
        }
    )
    facts = facts_of(run, repository="repo.git", isolation={"network": "seccomp"}, hardware={"cores": 2, "none": None})
    assert facts.branch == "autoresearch/default-first"
    assert facts.source == "template tiny-gpt"
    assert facts.tiers[0].budget == "10 CPU-seconds" == budget_words(run.spec.tiers[0].budget)
    assert (facts.rules.looks, facts.rules.significance, facts.experiments_limit) == ((2, 4), 0.02, 7)
    assert facts.hardware == {"cores": "2"}
