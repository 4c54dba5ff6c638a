"""A work folder after anything: no finished trial is lost, none counts twice, verdicts stay."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from autoresearch_operator.api.reasons import Verdict, VerdictReason
from autoresearch_operator.gateways import repair
from autoresearch_operator.gateways.git import Repository
from autoresearch_operator.local.durable import RunLocked, StorageFull
from autoresearch_operator.local.store import BranchMoved, NotARun, Store, StoreError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def assert_same(campaign, workdir: Path) -> Store:
    """Opens `workdir` and compares everything that decides with what the campaign wrote."""
    store = Store.open(workdir)
    loaded = store.load()
    assert list(loaded.experiments) == campaign.experiments
    assert list(loaded.trials) == campaign.trials
    assert store.repository.resolve(store.run.branch_ref) == campaign.head
    assert store.repository.check() == []
    contents = store.ledger.read() if store.ledger else None
    assert contents is not None
    assert list(contents.experiments) == campaign.experiments
    store.close()
    return store


def test_a_run_is_read_back_as_it_was_written(campaign) -> None:
    campaign.grow(4)
    campaign.store.save_active_seconds(12.5)
    campaign.store.close()
    store = assert_same(campaign, campaign.store.workdir)
    assert store.notes == []
    assert store.run == campaign.store.run
    assert store.active_seconds() == 12.5
    assert [c.subject for c in store.repository.branch_log(store.run.branch_ref)] == [
        "try 4",
        "try 2",
        "first: the source",
    ]


def test_two_runs_with_the_same_records_have_the_same_branch_commit_for_commit(campaign, tmp_path: Path) -> None:
    campaign.grow(4)
    store = Store.create(
        tmp_path / "again",
        request="x",
        namespace="default",
        name="first",
        seed=7,
        files={"train.py": b"LR = 0.1\n", "prepare.py": b"T = 128\n"},
    )
    other = type(campaign)(store).grow(4)
    assert other.head == campaign.head


def test_there_is_one_run_a_folder_and_one_process_a_run(campaign, tmp_path: Path) -> None:
    with pytest.raises(RunLocked, match="in use by process"):
        Store.open(campaign.store.workdir)
    assert Store.open(campaign.store.workdir, readonly=True).load().experiments == ()
    campaign.store.close()
    with pytest.raises(StoreError, match="holds a run already"):
        Store.create(campaign.store.workdir, request="", namespace="d", name="n", seed=1, files={"train.py": b""})
    with pytest.raises(NotARun, match="autoresearch run"):
        Store.open(tmp_path / "nothing")


def test_creation_that_was_cut_off_can_be_repeated(tmp_path: Path) -> None:
    def create() -> Store:
        return Store.create(tmp_path / "w", request="r", namespace="d", name="n", seed=1, files={"train.py": b""})

    create().close()
    (tmp_path / "w" / "run.json").unlink()
    shutil.rmtree(tmp_path / "w" / "repo.git" / "refs" / "autoresearch")
    with pytest.raises(NotARun, match="start the run again"):
        Store.open(tmp_path / "w")
    create().close()
    assert Store.open(tmp_path / "w").load().experiments == ()


def test_a_run_starts_from_a_repository_on_this_machine(campaign, tmp_path: Path) -> None:
    campaign.grow(2)
    store = Store.create(
        tmp_path / "second", request="", namespace="d", name="n", seed=1,
        url=str(campaign.store.repository.path), source_ref=campaign.store.run.branch_ref.removeprefix("refs/heads/"),
    )  # fmt: skip
    assert store.run.source_commit == campaign.head
    store.close()
    shutil.rmtree(tmp_path / "second" / "repo.git")
    again = Store.open(tmp_path / "second")
    assert again.repository.read_files(again.run.source_commit, ["train.py"]) == {"train.py": b"LR = 0.0002\n"}


def test_a_result_that_nobody_recorded_before_the_crash_counts(campaign) -> None:
    campaign.grow(1)
    number = campaign.propose()
    running, folder = campaign.start(number)
    (folder / "result.json").write_text(json.dumps({"version": 1, "outcome": "Scored", "valBPB": 2.25}))
    campaign.store.close()
    store = Store.open(campaign.store.workdir)
    found = {trial.key: trial for trial in store.load().trials}
    assert found[running.key].val_bpb == 2.25
    assert found[running.key].purpose is running.purpose
    assert len(found) == len(campaign.trials) + 1


@pytest.mark.parametrize("content", [b'{"version": 1, "outcome": "Sco', b"", b'{"version": 9}', b"[]"])
def test_half_a_result_is_set_aside_and_the_trial_runs_again(campaign, content: bytes) -> None:
    campaign.grow(1)
    number = campaign.propose()
    running, folder = campaign.start(number)
    (folder / "result.json").write_bytes(content)
    campaign.store.close()
    store = Store.open(campaign.store.workdir)
    assert running.key not in {trial.key for trial in store.load().trials}
    assert (folder / "result.json.corrupt-1").read_bytes() == content
    assert any("measured again" in note for note in store.notes)
    campaign.store = store
    campaign.run(number)
    store.close()
    assert_same(campaign, store.workdir)


def test_a_trial_without_a_result_is_not_a_trial_yet(campaign) -> None:
    campaign.grow(1)
    campaign.start(campaign.propose())
    campaign.store.close()
    assert list(Store.open(campaign.store.workdir).load().trials) == campaign.trials


def test_a_verdict_that_reached_git_and_not_its_file_stands(campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign.grow(1)
    number = campaign.propose()
    campaign.run(number)

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(campaign.store, "_write_experiment", die)
    with pytest.raises(Killed):
        campaign.decide(number, Verdict.ACCEPTED, VerdictReason.IMPROVED)
    campaign.store.close()
    store = assert_same(campaign, campaign.store.workdir)
    assert any("restored from the ledger" in note for note in store.notes)


def test_a_disk_that_fills_up_loses_nothing_that_was_there(campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign.grow(2)
    number = campaign.propose()
    before = list(campaign.experiments)

    def full(*_: object, **__: object) -> None:
        raise StorageFull(28, "the disk is full")

    monkeypatch.setattr("autoresearch_operator.local.store.write_durable", full)
    with pytest.raises(StorageFull):
        campaign.run(number)
    campaign.store.close()
    monkeypatch.undo()
    campaign.experiments = before
    assert_same(campaign, campaign.store.workdir)


@pytest.mark.parametrize(
    "lost", ["repo.git", "experiments", "index.jsonl", "run.json", "source.pack", "researchrun.yaml", "state.json"]
)
def test_any_one_part_of_the_folder_may_vanish(campaign, lost: str) -> None:
    campaign.grow(4)
    campaign.store.save_active_seconds(3.0)
    campaign.store.close()
    path = campaign.store.workdir / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert_same(campaign, campaign.store.workdir)
    assert_same(campaign, campaign.store.workdir)
    assert path.exists() or lost == "state.json"


def test_when_files_and_index_vanish_the_ledger_has_the_trials_of_all_decisions(campaign) -> None:
    campaign.grow(4)
    campaign.store.close()
    for name in ("experiments", "trials"):
        shutil.rmtree(campaign.store.workdir / name)
    (campaign.store.workdir / "index.jsonl").unlink()
    assert_same(campaign, campaign.store.workdir)


def test_a_rebuilt_repository_keeps_what_a_person_put_into_the_old_one(campaign) -> None:
    campaign.grow(2)
    store = campaign.store
    other, _ = store.repository.write_candidate(store.run.source_commit, {"notes.txt": b"mine\n"}, "mine\n", 1)
    subprocess.run(["git", "-C", str(store.repository.path), "update-ref", "refs/heads/mine", other], check=True)
    (store.repository.path / "HEAD").write_text("")
    sha = store.repository.entries(campaign.experiments[1].commit)["train.py"].sha
    store.close()
    damaged = store.repository.path / "objects" / sha[:2] / sha[2:]
    damaged.chmod(0o644)
    damaged.write_bytes(b"")
    (store.repository.path / "HEAD").write_text("ref: refs/heads/mine\n")
    assert_same(campaign, store.workdir)
    assert Repository.open(store.workdir / "repo.git").resolve("refs/heads/mine") == other
    assert (store.workdir / "repo.git.corrupt-1").is_dir()


def test_a_lock_that_a_killed_git_left_is_moved_away(campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign.grow(1)
    campaign.store.close()
    monkeypatch.setattr(repair, "STALE_SECONDS", 0.05)
    lock = campaign.store.workdir / "repo.git" / f"{campaign.store.run.ledger_ref}.lock"
    lock.touch()
    store = assert_same(campaign, campaign.store.workdir)
    assert not lock.exists()
    assert any("left by a git that was killed" in note for note in store.notes)


def person_commits(campaign, tmp_path: Path, name: str) -> str:
    work = tmp_path / "person"
    branch = campaign.store.run.branch_ref.removeprefix("refs/heads/")
    subprocess.run(["git", "clone", "-q", "-b", branch, str(campaign.store.repository.path), str(work)], check=True)
    (work / name).write_text("by hand\n")
    person = ["git", "-C", str(work), "-c", "user.name=P", "-c", "user.email=p@example.org"]
    subprocess.run([*person, "add", "."], check=True)
    subprocess.run([*person, "commit", "-q", "-m", "by hand"], check=True)
    subprocess.run([*person, "push", "-q"], check=True)
    return subprocess.run([*person, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_an_edit_lands_on_top_of_a_persons_commit_that_leaves_the_inputs_alone(tmp_path: Path, campaign) -> None:
    store = Store.create(
        tmp_path / "r2", request="", namespace="d", name="n", seed=1, files={"train.py": b"LR = 0.1\n"}, inputs=["*.py"]
    )
    mine = type(campaign)(store).grow(1)
    number = mine.propose()
    mine.run(number)
    head = person_commits(mine, tmp_path, "README.md")
    mine.decide(number, Verdict.ACCEPTED, VerdictReason.IMPROVED)
    landed = mine.experiments[number].landed_commit
    assert landed == store.repository.resolve(store.run.branch_ref)
    assert store.repository.commit(landed or "").parents == (head,)
    store.close()
    assert_same(mine, store.workdir)


def test_an_edit_does_not_land_on_a_persons_commit_that_changes_the_inputs(tmp_path: Path, campaign) -> None:
    campaign.grow(1)
    number = campaign.propose()
    campaign.run(number)
    head = person_commits(campaign, tmp_path, "train.py")
    with pytest.raises(BranchMoved, match="was changed by somebody else"):
        campaign.decide(number, Verdict.ACCEPTED, VerdictReason.IMPROVED)
    assert campaign.store.repository.resolve(campaign.store.run.branch_ref) == head


def test_reading_only_changes_nothing(campaign) -> None:
    campaign.grow(2)
    campaign.store.close()
    damaged = campaign.store.workdir / "experiments" / "00001.json"
    damaged.write_bytes(damaged.read_bytes()[:40])
    before = {path: path.stat().st_mtime_ns for path in campaign.store.workdir.rglob("*")}
    loaded = Store.open(campaign.store.workdir, readonly=True).load()
    assert list(loaded.experiments) == campaign.experiments
    assert {path: path.stat().st_mtime_ns for path in campaign.store.workdir.rglob("*")} == before


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_one_file_may_be_cut_off_at_any_byte(finished, tmp_path_factory: pytest.TempPathFactory, data) -> None:
    workdir = tmp_path_factory.mktemp("cut") / "run"
    shutil.copytree(finished.store.workdir, workdir)
    files = sorted(path for path in workdir.rglob("*") if path.is_file() and path.stat().st_size)
    path = data.draw(st.sampled_from(files))
    size = data.draw(st.integers(0, path.stat().st_size - 1))
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(size)
    assert_same(finished, workdir)
    assert_same(finished, workdir)
    shutil.rmtree(workdir.parent)
