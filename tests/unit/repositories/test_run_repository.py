"""A run's repository on the volume: made once, opened after anything, and only ever moved forward."""

import json
from dataclasses import replace
from pathlib import Path

import autoresearch_trainer
import pytest
from autoresearch_operator.api.reasons import BranchUpdatedReason, ReadyReason
from autoresearch_operator.cluster.origin import template_files
from autoresearch_operator.cluster.repositories import NotReady, Repositories, SaveFailed
from autoresearch_operator.cluster.seen import Key
from autoresearch_operator.gateways.errors import Outcome, SourceNotFound
from autoresearch_operator.gateways.git import Repository
from autoresearch_operator.gateways.process import Access
from autoresearch_operator.local.creation import make_run
from autoresearch_operator.local.data import template_files as local_template_files
from autoresearch_operator.research.records import TrialPhase
from runrepositories import accepted, baseline, candidate, land, repositories, run_of, spec_of, trial

FIRST = Key("default", "first")


def test_a_run_without_a_url_begins_from_the_template_and_can_be_cloned(tmp_path: Path) -> None:
    opened = repositories(tmp_path).open(run_of(), spec_of())
    assert opened.clone_url == "http://git.example/default/first.git"
    state = opened.publish(0.0)
    assert (state.reason, state.message) == (BranchUpdatedReason.UP_TO_DATE, f"git clone {opened.clone_url}")
    assert set(opened.sources.files(baseline(opened))) == {"prepare.py", "train.py"}
    assert opened.load().experiments == ()
    assert (tmp_path / "default" / "first.git" / "git-daemon-export-ok").exists()


def test_the_cluster_begins_with_the_commit_that_local_mode_begins_with(tmp_path: Path) -> None:
    opened = repositories(tmp_path / "cluster").open(run_of(), spec_of())
    (tmp_path / "local").mkdir()
    run, _ = make_run(
        tmp_path / "local", request="", namespace="default", name="first", seed=0,
        files=local_template_files("tiny-gpt"), url=None, source_ref="HEAD", branch=None, inputs=(), details={},
        access=Access(), started_at=0.0,
    )  # fmt: skip
    assert run.source_commit == opened.source_commit
    assert run.branch_ref == opened.branch_ref
    assert run.ledger_ref == opened.ledger_ref


def test_templates_come_from_the_folder_that_the_image_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = Path(autoresearch_trainer.__file__).parent / "templates"
    assert template_files("tiny-gpt", None) == template_files("tiny-gpt", shipped) == local_template_files("tiny-gpt")
    monkeypatch.setenv("AUTORESEARCH_TEMPLATES", str(tmp_path))
    with pytest.raises(SourceNotFound, match="AUTORESEARCH_TEMPLATES names the wrong folder"):
        template_files("tiny-gpt", None)
    with pytest.raises(NotReady) as refused:
        repositories(tmp_path / "r").open(run_of(), spec_of())
    assert refused.value.reason is ReadyReason.SOURCE_NOT_FOUND


def test_what_was_saved_is_there_after_a_restart_and_a_second_save_writes_nothing(tmp_path: Path) -> None:
    first = repositories(tmp_path)
    opened = first.open(run_of(), spec_of())
    records = [baseline(opened)]
    assert opened.save(records, [trial(0)], details={"seed": 7, "started_at": 5.0}).ok
    records.append(candidate(opened, records[0], 1, "LR = 1\n"))
    running = replace(trial(1), phase=TrialPhase.RUNNING, finished_at=None)
    assert opened.save(records, [trial(0), running]).ok
    tip = opened.repository.resolve(opened.ledger_ref)
    assert opened.save(records, [trial(0), running]).ok
    assert opened.repository.resolve(opened.ledger_ref) == tip
    opened.set_details(active_seconds=12.0)
    first.close()
    again = repositories(tmp_path).open(run_of(), spec_of())
    assert again.load().experiments == tuple(records)
    assert again.load().trials == (trial(0),)
    assert dict(again.details) == {"seed": 7, "started_at": 5.0, "active_seconds": 12.0}
    assert again.repository.has(records[1].commit)
    assert again.notes == []


def test_branch_and_ledger_move_together_and_a_landing_that_is_repeated_changes_nothing(tmp_path: Path) -> None:
    opened = repositories(tmp_path).open(run_of(), spec_of())
    records = land(opened, "LR = 1\n")
    head = opened.repository.resolve(opened.branch_ref)
    assert head == records[1].landed_commit
    before = opened.repository.refs()
    assert opened.save(records, opened.load().trials, landed=[1]).ok
    assert opened.repository.refs() == before
    land(opened, "LR = 2\n")
    assert opened.repository.commit(opened.repository.resolve(opened.branch_ref)).parents == (head,)


def test_a_landing_without_a_commit_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    opened = repositories(tmp_path).open(run_of(), spec_of())
    records = [baseline(opened)]
    records.append(candidate(opened, records[0], 1, "LR = 1\n"))
    with pytest.raises(ValueError, match="experiment 1 is not accepted"):
        opened.save(records, [], landed=[1])


def test_two_operators_on_one_volume_do_not_overwrite_each_other(tmp_path: Path) -> None:
    one = repositories(tmp_path).open(run_of(), spec_of())
    two = repositories(tmp_path).open(run_of(), spec_of())
    land(one, "LR = 1\n")
    mine = [baseline(two)]
    mine.append(accepted(two, candidate(two, mine[0], 1, "LR = 9\n"), mine[0]))
    saved = two.save(mine, [], landed=[1])
    assert saved.outcome is Outcome.CONFLICT
    assert "another operator" in saved.message
    assert two.load() == one.load()
    land(two, "LR = 2\n")
    assert len(one.load().experiments) == 3
    one.set_details(seed=1)
    assert two.load() == one.load()


def test_a_run_that_is_made_anew_after_a_crash_in_the_middle_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("autoresearch_operator.cluster.origin._begin", dies)
        with pytest.raises(KeyboardInterrupt):
            repositories(tmp_path).open(run_of(), spec_of())
    (tmp_path / "default" / ".first.making").mkdir(exist_ok=True)
    (tmp_path / "default" / ".first.making" / "left").touch()
    again = repositories(tmp_path)
    assert again.keys() == []
    assert again.open(run_of(), spec_of()).load().experiments == ()
    assert again.keys() == [FIRST]
    assert not list((tmp_path / "default").glob(".*"))


def test_a_changed_budget_under_scores_is_refused_and_a_new_tier_is_taken(tmp_path: Path) -> None:
    all_runs = repositories(tmp_path)
    opened = all_runs.open(run_of(), spec_of())
    cpu = {"name": "cpu", "gpus": 0, "budget": {"cpuSeconds": 5}}
    slow = cpu | {"budget": {"cpuSeconds": 50}}
    all_runs.open(run_of(), spec_of(tiers=[slow]))  # nothing was measured yet
    all_runs.open(run_of(), spec_of(tiers=[cpu]))
    assert opened.save([baseline(opened)], [trial(0)]).ok
    with pytest.raises(NotReady, match=r"spec\.tiers\[cpu\]\.budget is .*50.* was .*another metadata\.name") as refused:
        all_runs.open(run_of(), spec_of(tiers=[slow]))
    assert refused.value.reason is ReadyReason.RUN_CHANGED
    with pytest.raises(NotReady, match=r"spec\.trainer\.env"):
        opened.adopt(spec_of(trainer={"env": [{"name": "A", "value": "1"}]}))
    with pytest.raises(NotReady, match=r"spec\.source\.editablePaths"):
        opened.adopt(spec_of(source={"editablePaths": ["train.py", "model.py"]}))
    with pytest.raises(NotReady, match=r"spec\.tiers has no cpu any more: .*maxParallel: 0"):
        opened.adopt(spec_of(tiers=[cpu | {"name": "other"}]))
    opened.adopt(spec_of(tiers=[cpu | {"maxParallel": 3}, cpu | {"name": "more"}]))
    with pytest.raises(NotReady, match="has no more any more"):
        opened.adopt(spec_of(tiers=[cpu]))


def test_a_fact_that_a_later_version_adds_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        old = {"source": {"url": None}, "trainer": {"evaluation": "Verified"}, "tiers": {"cpu": {"gpus": 0}}}
        patch.setattr("autoresearch_operator.cluster.origin.facts_of", lambda _: old)
        patch.setattr("autoresearch_operator.cluster.document.facts_of", lambda _: old)
        first = repositories(tmp_path).open(run_of(), spec_of())
        assert first.save([baseline(first)], [trial(0)]).ok
    assert repositories(tmp_path).open(run_of(), spec_of()).load().trials == (trial(0),)


def test_a_deleted_run_keeps_its_record_and_goes_on_when_it_is_applied_again(tmp_path: Path) -> None:
    all_runs = repositories(tmp_path)
    records = land(all_runs.open(run_of(), spec_of()), "LR = 1\n")
    all_runs.release(FIRST)
    assert all_runs.get(FIRST) is None
    tip = Repository.open(tmp_path / "default" / "first.git")
    ledger = tip.resolve("refs/autoresearch/default-first/ledger")
    assert json.loads(tip.blob(tip.entries(ledger)["run.json"].sha))["finished"] == "Deleted"
    again = all_runs.open(run_of(), spec_of())
    assert again.load().experiments == tuple(records)
    assert again.details["finished"] is None
    all_runs.release(Key("default", "never-was"))


def test_a_deleted_run_that_was_not_open_is_released_as_well(tmp_path: Path) -> None:
    repositories(tmp_path).open(run_of(), spec_of())
    later = repositories(tmp_path)
    later.release(FIRST)
    assert later.open(run_of(), spec_of()).details["finished"] is None


def test_names_that_are_written_the_same_way_have_repositories_of_their_own(tmp_path: Path) -> None:
    all_runs = repositories(tmp_path)
    one = all_runs.open(run_of("b-c", "a"), spec_of("b-c"))
    two = all_runs.open(run_of("c", "a-b"), spec_of("c"))
    assert one.ledger_ref == two.ledger_ref
    assert one.repository.path != two.repository.path
    assert all_runs.keys() == [Key("a", "b-c"), Key("a-b", "c")]


def test_a_lost_branch_is_put_back_and_a_stale_lock_is_moved_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoresearch_operator.gateways.repair.STALE_SECONDS", 0.05)
    opened = repositories(tmp_path).open(run_of(), spec_of())
    head = land(opened, "LR = 1\n")[1].landed_commit
    opened.repository.runner.check("update-ref", "-d", opened.branch_ref, doing="a test")
    (opened.repository.path / f"{opened.ledger_ref}.lock").touch()
    again = repositories(tmp_path).open(run_of(), spec_of())
    assert again.repository.resolve(again.branch_ref) == head
    assert any("the last accepted edit" in note for note in again.notes)
    assert any("left by a git that was killed" in note for note in again.notes)
    land(again, "LR = 2\n")


def test_a_damaged_repository_without_a_server_is_restored_from_what_can_be_read(tmp_path: Path) -> None:
    opened = repositories(tmp_path).open(run_of(), spec_of())
    records = land(opened, "LR = 1\n")
    path = opened.repository.path
    (path / "HEAD").write_text("")
    again = repositories(tmp_path).open(run_of(), spec_of())
    assert again.load().experiments == tuple(records)
    assert any("was restored" in note and "first.git.damaged-1" in note for note in again.notes)
    assert again.repository.check() == []
    assert (path / "git-daemon-export-ok").exists()
    land(again, "LR = 2\n")


def test_a_repository_that_is_beyond_repair_is_left_alone_and_said(tmp_path: Path) -> None:
    opened = repositories(tmp_path).open(run_of(), spec_of())
    land(opened, "LR = 1\n")
    tip, path = opened.repository.resolve(opened.ledger_ref), opened.repository.path
    (path / "objects" / tip[:2] / tip[2:]).unlink()
    with pytest.raises(NotReady, match=r"damaged .*no source\.url.*backup") as refused:
        repositories(tmp_path).open(run_of(), spec_of())
    assert refused.value.reason is ReadyReason.REPOSITORY_UNUSABLE
    assert path.exists()
    assert not list(path.parent.glob("*damaged*"))


def test_objects_are_packed_at_a_quiet_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoresearch_operator.cluster.runrepository.OBJECTS", 255)
    opened = repositories(tmp_path).open(run_of(), spec_of())
    number = 0
    while not opened.repository.loose_objects():
        number += 1
        records = land(opened, f"LR = {number}\n")
    assert opened.publish(1.0).ok
    assert opened.repository.loose_objects() == 0
    land(opened, "LR = 0.5\n")
    assert len(opened.load().experiments) == len(records) + 1
    assert opened.repository.check() == []


def test_details_of_a_ledger_that_moved_are_not_lost_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = repositories(tmp_path).open(run_of(), spec_of())
    two = repositories(tmp_path).open(run_of(), spec_of())
    monkeypatch.setattr(two, "_load", two._load)
    loaded = two.load()
    assert one.is_current() and two.is_current()
    one.set_details(seed=1)
    assert one.is_current() and not two.is_current()
    monkeypatch.setattr(two, "_load", lambda: loaded)
    with pytest.raises(SaveFailed, match="another operator"):
        two.set_details(seed=2)


def test_runs_are_opened_once_however_many_threads_ask(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    all_runs: Repositories = repositories(tmp_path)
    spec = spec_of()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: all_runs.open(run_of(), spec), range(8)))
    assert len({id(item) for item in found}) == 1
