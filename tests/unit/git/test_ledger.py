"""The ledger: one ref, all records without loss, every candidate alive."""

import dataclasses
import subprocess
from pathlib import Path

import pytest
from autoresearch_operator.api.reasons import ExperimentKind, ExperimentPhase, Verdict, VerdictReason
from autoresearch_operator.gateways.codec import (
    RecordError,
    as_json,
    experiment_from_json,
    experiments_from_tsv,
    experiments_tsv,
    trial_from_json,
    trials_from_tsv,
    trials_tsv,
)
from autoresearch_operator.gateways.errors import Outcome, RepositoryDamaged
from autoresearch_operator.gateways.git import Change as RefChange
from autoresearch_operator.gateways.git import Repository
from autoresearch_operator.gateways.ledger import PARENTS, ROWS, Ledger, branch_owner
from autoresearch_operator.research.records import Change, ExperimentRecord, Purpose, TrialKey, TrialPhase, TrialRecord
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BRANCH = "refs/heads/autoresearch/default-first"
REF = "refs/autoresearch/default-first"
RUN = {"name": "first", "branch_ref": BRANCH, "finished": None}

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(0, 2**53)
SHA = st.text("0123456789abcdef", min_size=40, max_size=40)
EXPERIMENTS = st.builds(
    ExperimentRecord,
    number=st.integers(0, 9999),
    kind=st.sampled_from(ExperimentKind),
    commit=SHA,
    tree=SHA,
    base=st.integers(0, 9999),
    title=TEXT,
    proposer=TEXT,
    hypothesis=TEXT,
    changes=st.lists(st.builds(Change, TEXT, TEXT, TEXT, TEXT), max_size=2).map(tuple),
    sources=st.lists(st.integers(0, 999), max_size=3).map(tuple),
    refused=st.none() | st.tuples(st.sampled_from(VerdictReason), TEXT),
    phase=st.sampled_from(ExperimentPhase),
    verdict=st.none() | st.sampled_from(Verdict),
    reason=st.none() | st.sampled_from(VerdictReason),
    message=TEXT,
    val_bpb=st.none() | FLOAT,
    delta=st.none() | FLOAT,
    delta_error=st.none() | FLOAT,
    landed_commit=st.none() | SHA,
    created_at=FLOAT,
    decided_at=st.none() | FLOAT,
)
TRIALS = st.builds(
    TrialRecord,
    key=st.builds(TrialKey, WHOLE, WHOLE, st.integers(1, 9)),
    tier=TEXT,
    purpose=st.sampled_from(Purpose),
    subject=WHOLE,
    phase=st.sampled_from(TrialPhase),
    reason=st.none() | st.sampled_from(VerdictReason),
    detail=TEXT,
    message=TEXT,
    val_bpb=st.none() | FLOAT,
    audit_pairs=WHOLE,
    train_tokens=WHOLE,
    tokens_per_second=st.none() | FLOAT,
    reference_seconds=st.none() | FLOAT,
    peak_memory_bytes=st.none() | WHOLE,
    peak_vram_bytes=st.none() | WHOLE,
    started_at=FLOAT,
    finished_at=st.none() | FLOAT,
    slot=st.none() | st.integers(0, 99),
    curve=st.lists(st.tuples(WHOLE, FLOAT), max_size=8).map(tuple),
    cpu_seconds=st.none() | FLOAT,
)
QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(st.lists(EXPERIMENTS, max_size=4))
def test_experiments_come_back_from_rows_and_from_json_as_they_were(records: list[ExperimentRecord]) -> None:
    assert experiments_from_tsv(experiments_tsv(records, {})) == records
    assert [experiment_from_json(as_json(record)) for record in records] == records


@QUICK
@given(st.lists(TRIALS, max_size=4))
def test_trials_come_back_from_rows_and_from_json_as_they_were(records: list[TrialRecord]) -> None:
    assert trials_from_tsv(trials_tsv(records, {})) == records
    assert [trial_from_json(as_json(record)) for record in records] == records


@QUICK
@given(EXPERIMENTS, st.data())
def test_a_row_that_was_cut_off_is_never_read_as_another_record(record: ExperimentRecord, data: st.DataObject) -> None:
    text = experiments_tsv([record], {})
    cut = data.draw(st.integers(0, len(text) - 1))
    try:
        assert experiments_from_tsv(text[:cut]) == []
    except RecordError:
        return


def test_the_first_columns_are_upstreams(repository: Repository) -> None:
    record = dataclasses.replace(experiments(repository, 1)[0], val_bpb=0.997900, verdict=Verdict.REJECTED)
    head, row = experiments_tsv([record], {0: 45_000_000_000}).decode().splitlines()
    assert head.split("\t")[:5] == ["commit", "val_bpb", "memory_gb", "status", "description"]
    assert row.split("\t")[:5] == [record.commit, "0.9979", "41.9", "discard", "try 0"]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(
        tmp_path / "r.git", {"train.py": b"x\n"}, branch_ref=BRANCH, message="m", when=1_700_000_000
    )


def experiments(repository: Repository, count: int, start: int = 0) -> list[ExperimentRecord]:
    base = repository.resolve(BRANCH)
    found = []
    with repository.writer() as writer:
        for number in range(start, start + count):
            commit, tree = writer.commit(
                parents=(base,), message=f"try {number}\n", when=1_700_000_000, changed={"train.py": b"%d\n" % number}
            )
            found.append(ExperimentRecord(number, ExperimentKind.PROPOSAL, commit, tree, 0, f"try {number}", "search"))
    return found


def trial(number: int) -> TrialRecord:
    return TrialRecord(TrialKey(number, 64 * number, 1), "cpu", Purpose.SCREEN, number, TrialPhase.SCORED, val_bpb=2.5)


def test_what_was_saved_is_read_by_another_process(repository: Repository) -> None:
    records = experiments(repository, 3)
    trials = [trial(number) for number in range(3)]
    assert Ledger(repository, REF).save(records, trials, RUN, when=1).ok
    contents = Ledger(Repository.open(repository.path), REF).read()
    assert contents is not None
    assert (list(contents.experiments), list(contents.trials), contents.run) == (records, trials, RUN)


def test_every_candidate_survives_git_gc(repository: Repository) -> None:
    records = experiments(repository, PARENTS * 2 + 5)
    ledger = Ledger(repository, REF)
    for end in (1, 2, PARENTS + 10, len(records)):
        assert ledger.save(records[:end], [], RUN, when=end).ok
    subprocess.run(["git", "-C", str(repository.path), "gc", "-q", "--prune=now"], check=True)
    again = Repository.open(repository.path)
    assert all(again.has(record.commit) for record in records)
    assert again.check() == []


def test_a_landing_is_kept_even_when_the_branch_is_deleted(repository: Repository) -> None:
    record = experiments(repository, 1)[0]
    landed = repository.landing_commit(repository.resolve(BRANCH), record.tree, "land\n", 1)
    assert Ledger(repository, REF).save([dataclasses.replace(record, landed_commit=landed)], [], RUN, when=1).ok
    subprocess.run(["git", "-C", str(repository.path), "update-ref", "-d", BRANCH], check=True)
    subprocess.run(["git", "-C", str(repository.path), "gc", "-q", "--prune=now"], check=True)
    assert Repository.open(repository.path).has(landed)


def test_a_new_row_writes_one_file_of_a_hundred_rows(repository: Repository) -> None:
    records = experiments(repository, 2 * ROWS + 50)
    ledger = Ledger(repository, REF)
    assert ledger.save(records[:-1], [], RUN, when=1).ok
    before = repository.entries(ledger.tip or "")
    assert ledger.save(records, [trial(0)], RUN, when=2).ok
    after = repository.entries(ledger.tip or "")
    assert {path for path in after if before.get(path) != after[path]} == {"experiments/00002.tsv", "trials/00000.tsv"}


def test_history_is_append_only_and_says_what_was_known_when(repository: Repository) -> None:
    records = experiments(repository, 2)
    ledger = Ledger(repository, REF)
    assert ledger.save(records[:1], [], RUN, when=1).ok
    first = ledger.tip
    decided = dataclasses.replace(records[0], verdict=Verdict.REJECTED, phase=ExperimentPhase.DONE)
    assert ledger.save([decided, records[1]], [], RUN, when=2).ok
    assert first is not None
    assert ledger.tip is not None
    assert repository.is_ancestor(first, ledger.tip)
    assert first in [commit.sha for commit in repository.branch_log(REF)]


def test_a_second_writer_loses_and_can_go_on_after_reading(repository: Repository) -> None:
    records = experiments(repository, 2)
    one, two = Ledger(repository, REF), Ledger(Repository.open(repository.path), REF)
    assert one.save(records[:1], [], RUN, when=1).ok
    assert two.save(records, [], RUN, when=1).outcome is Outcome.CONFLICT
    two.reload()
    assert two.save(records, [], RUN, when=1).ok


def test_a_ledger_that_cannot_be_read_names_the_file(repository: Repository) -> None:
    with repository.writer() as writer:
        tip, _ = writer.commit(parents=(), message="m", when=1, changed={"experiments/00000.tsv": b"nonsense\n"})
    assert repository.update([RefChange(REF, None, tip)]).ok
    with pytest.raises(RepositoryDamaged, match=r"experiments/00000\.tsv"):
        Ledger(repository, REF).read()


def test_a_branch_belongs_to_the_unfinished_run_whose_ledger_names_it(repository: Repository) -> None:
    records = experiments(repository, 1)
    assert branch_owner(repository, BRANCH, REF) is None
    other = Ledger(repository, "refs/autoresearch/default-second")
    assert other.save(records, [], RUN | {"branch_ref": "refs/heads/elsewhere"}, when=1).ok
    assert branch_owner(repository, BRANCH, REF) is None
    assert other.save(records, [], RUN, when=2).ok
    assert branch_owner(repository, BRANCH, REF) == other.ref
    assert other.save(records, [], RUN | {"finished": "ExperimentLimit"}, when=3).ok
    assert branch_owner(repository, BRANCH, REF) is None
