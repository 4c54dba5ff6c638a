"""A run with a git server of its own: pushed to at its pace, never by force, and taken back from it after any loss."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from autoresearch_operator.api.reasons import BranchUpdatedReason, ReadyReason
from autoresearch_operator.cluster import publishing
from autoresearch_operator.cluster.repositories import NotReady, RunRepository
from autoresearch_operator.cluster.seen import Key
from autoresearch_operator.gateways.landing import reparent
from gitservers import GitServer
from runrepositories import Store, accepted, baseline, candidate, land, repositories, run_of, secret, spec_of, trial

BRANCH = "refs/heads/autoresearch/default-first"
LEDGER = "refs/autoresearch/default-first/ledger"


def source_of(server: GitServer, **more: Any) -> dict[str, Any]:
    return {"source": {"url": server.url, "ref": "main", **more}}


def opened_on(server: GitServer, root: Path, secrets: Store | None = None, **more: Any) -> RunRepository:
    return repositories(root, secrets, ca=server.ca).open(run_of(), spec_of(**source_of(server, **more)))


def test_accepted_edits_and_their_record_arrive_together(server: GitServer, tmp_path: Path) -> None:
    opened = opened_on(server, tmp_path / "r")
    assert opened.source_commit == server.refs()["refs/heads/main"]
    assert opened.clone_url == server.url
    assert not (opened.repository.path / "git-daemon-export-ok").exists(), "a private source is not handed out"
    records = land(opened, "LR = 1\n")
    state = opened.publish(100.0)
    assert state.reason is BranchUpdatedReason.UP_TO_DATE
    assert state.pushed == {BRANCH: records[1].landed_commit, LEDGER: opened.repository.resolve(LEDGER)}
    assert {ref: server.refs()[ref] for ref in (BRANCH, LEDGER)} == state.pushed
    assert server.git("cat-file", "-t", records[1].commit) == "commit", "the ledger keeps every candidate alive"


def test_a_server_is_talked_to_six_times_a_minute_at_most(server: GitServer, tmp_path: Path) -> None:
    opened, pushes = opened_on(server, tmp_path / "r"), 0
    looks = server.looks
    for second in range(0, 61, 2):
        land(opened, f"LR = {second + 1}\n")
        state = opened.publish(1000.0 + second)
        pushes += bool(state.pushed)
        if not state.pushed:
            assert state.ok
            assert state.retry_after is not None
            assert 0 < state.retry_after <= 10
    assert len(server.pushes) == 7, "at second 0, 10, … 60"
    assert server.looks - looks <= 2 * 7
    assert server.refs()[BRANCH] == opened.repository.resolve(BRANCH)


def test_records_without_an_accepted_edit_wait_longer_and_nothing_new_is_not_pushed(
    server: GitServer, tmp_path: Path
) -> None:
    opened = opened_on(server, tmp_path / "r")
    records = land(opened, "LR = 1\n")
    assert opened.publish(0.0).pushed
    records.append(candidate(opened, records[1], 2, "LR = 2\n"))
    assert opened.save(records, opened.load().trials).ok
    waiting = opened.publish(20.0)
    assert (waiting.pushed, waiting.retry_after) == ({}, 40.0)
    assert list(opened.publish(60.0).pushed) == [LEDGER]
    looks = server.looks
    idle = opened.publish(90.0)
    assert (idle.ok, idle.retry_after) == (True, publishing.LOOK_SECONDS - 30.0)
    assert server.looks == looks


def test_a_lost_answer_is_a_success_the_next_time(server: GitServer, tmp_path: Path) -> None:
    opened = opened_on(server, tmp_path / "r")
    land(opened, "LR = 1\n")
    server.drop_answers = 1
    state = opened.publish(0.0)
    assert state.reason is BranchUpdatedReason.GIT_UNAVAILABLE
    pushes = len(server.pushes)
    assert opened.publish(state.retry_after or 0.0).ok
    assert len(server.pushes) == pushes, "it had arrived"


def test_a_server_that_is_down_is_asked_less_and_less_often_and_work_goes_on(server: GitServer, tmp_path: Path) -> None:
    opened = opened_on(server, tmp_path / "r")
    server.broken, now, pauses = True, 0.0, []
    for _ in range(7):
        land(opened, f"LR = {now + 1}\n")
        state = opened.publish(now)
        assert state.reason is BranchUpdatedReason.GIT_UNAVAILABLE
        assert state.retry_after is not None
        assert opened.publish(now + 0.5).retry_after == pytest.approx(state.retry_after - 0.5)
        pauses.append(state.retry_after)
        now += state.retry_after
    assert pauses == [10, 20, 40, 80, 160, 300, 300]
    server.broken = False
    assert opened.publish(now).ok
    assert server.refs()[BRANCH] == opened.repository.resolve(BRANCH)


def test_a_crash_between_save_and_push_pushes_the_same_commits(server: GitServer, tmp_path: Path) -> None:
    land(opened_on(server, tmp_path / "r"), "LR = 1\n")
    again = opened_on(server, tmp_path / "r")
    head = again.repository.resolve(BRANCH)
    assert again.publish(0.0).pushed[BRANCH] == head == server.refs()[BRANCH]


def test_a_protected_branch_is_said_and_the_record_is_pushed_all_the_same(server: GitServer, tmp_path: Path) -> None:
    opened = opened_on(server, tmp_path / "r")
    server.hook("update", f'[ "$1" != {BRANCH} ] || {{ echo "{BRANCH} is protected" >&2; exit 1; }}')
    land(opened, "LR = 1\n")
    state = opened.publish(0.0)
    assert state.reason is BranchUpdatedReason.PUSH_REJECTED
    assert "is protected" in state.message
    assert state.pushed == {LEDGER: opened.repository.resolve(LEDGER)}
    assert BRANCH not in server.refs()
    server.hook("update", "exit 0")
    assert opened.publish(30.0).reason is BranchUpdatedReason.PUSH_REJECTED
    assert opened.publish(60.0).ok
    assert server.refs()[BRANCH] == opened.repository.resolve(BRANCH)


def test_a_rotated_password_is_read_anew_and_never_repeated(server: GitServer, tmp_path: Path) -> None:
    host = server.url.split("/")[2]
    store, key = Store(), ("default", "lab-git")

    def given(word: str, **more: Any) -> None:
        store[key] = secret("kubernetes.io/basic-auth", host, username="me", word=word, **more)

    server.password = "first-password"  # noqa: S105 - of a server that lives for this test
    given("first-password")
    opened = opened_on(server, tmp_path / "r", store, secretName="lab-git")
    land(opened, "LR = 1\n")
    assert opened.publish(0.0).ok
    server.password = "second-password"  # noqa: S105
    land(opened, "LR = 2\n")
    state = opened.publish(100.0)
    assert state.reason is BranchUpdatedReason.CREDENTIALS_REJECTED
    assert "password" not in state.message.replace("the credentials", "")
    given("second-password")
    assert opened.publish(160.0).ok
    given("second-password", usable="false")
    land(opened, "LR = 3\n")
    state = opened.publish(300.0)
    assert state.reason is BranchUpdatedReason.CREDENTIALS_REJECTED
    assert "not marked for use" in state.message
    del store[key]
    assert "no Secret lab-git" in opened.publish(400.0).message


def test_a_server_that_repeats_the_password_does_not_bring_it_into_a_message(server: GitServer, tmp_path: Path) -> None:
    server.password = "s3cr3t/word"  # noqa: S105
    store = Store()
    store["default", "lab-git"] = secret(
        "kubernetes.io/basic-auth", server.url.split("/")[2], username="me", word="s3cr3t/word"
    )
    opened = opened_on(server, tmp_path / "r", store, secretName="lab-git")
    server.hook("pre-receive", "echo 'no: me:s3cr3t/word bWU6czNjcjN0L3dvcmQ= s3cr3t%2Fword' >&2; exit 1")
    land(opened, "LR = 1\n")
    state = opened.publish(0.0)
    assert state.reason is BranchUpdatedReason.PUSH_REJECTED
    assert "no: [redacted] [redacted] [redacted]" in state.message


def test_a_persons_commit_beside_the_inputs_is_joined_and_recorded_landings_keep_their_names(
    server: GitServer, tmp_path: Path
) -> None:
    opened = opened_on(server, tmp_path / "r")
    first = land(opened, "LR = 1\n")[1].landed_commit
    assert opened.publish(0.0).ok
    theirs = server.person(BRANCH, README__md="better\n", notes__txt="new\n")
    second = land(opened, "LR = 2\n")[2].landed_commit
    assert opened.publish(100.0).ok
    head = server.refs()[BRANCH]
    assert opened.repository.commit(head).parents == (second, theirs)
    assert server.git("show", f"{head}:train.py") == "LR = 2"
    assert server.git("show", f"{head}:README.md") == "better"
    records = land(opened, "LR = 3\n")
    third = records[3].landed_commit or ""
    assert opened.repository.commit(third).parents == (head,), "put on top of what the branch has"
    assert opened.publish(200.0).ok
    assert server.refs()[BRANCH] == third
    assert [record.landed_commit for record in opened.load().experiments][1:3] == [first, second]


def test_a_persons_commit_alone_is_taken_over_and_the_next_landing_is_on_top(server: GitServer, tmp_path: Path) -> None:
    opened = opened_on(server, tmp_path / "r")
    records = land(opened, "LR = 1\n")
    assert opened.publish(0.0).ok
    theirs = server.person(BRANCH, README__md=None)
    record = accepted(opened, candidate(opened, records[1], 2, "LR = 2\n"), records[1])
    assert opened.publish(400.0).ok
    assert opened.repository.resolve(BRANCH) == theirs
    saved = opened.save([*records, record], opened.load().trials, landed=[2])
    assert saved.ok
    moved = saved.experiments[2].landed_commit or ""
    assert moved == reparent(opened.repository, record.landed_commit or "", theirs, ["train.py"])
    assert opened.publish(500.0).ok
    assert server.refs()[BRANCH] == moved
    assert "README.md" not in server.git("ls-tree", "--name-only", moved)


def test_a_persons_change_of_what_trials_read_is_diverged_with_what_it_needs(server: GitServer, tmp_path: Path) -> None:
    opened = opened_on(server, tmp_path / "r")
    first = land(opened, "LR = 1\n")[1].landed_commit
    assert opened.publish(0.0).ok
    theirs = server.person(BRANCH, train__py="LR = 77\n")
    land(opened, "LR = 2\n")
    state = opened.publish(100.0)
    assert state.reason is BranchUpdatedReason.DIVERGED
    for words in (
        theirs[:12],
        "train.py",
        "experiments 2 were",
        "Combination",
        "source.ref autoresearch/default-first",
    ):
        assert words in state.message
    assert server.refs()[BRANCH] == theirs
    assert server.refs()[LEDGER] == opened.repository.resolve(LEDGER), "the edit is kept there all the same"
    server.git("update-ref", BRANCH, str(first))
    assert opened.publish(160.0).ok
    assert server.refs()[BRANCH] == opened.repository.resolve(BRANCH)


def test_a_branch_that_was_replaced_by_something_else_is_left_alone(server: GitServer, tmp_path: Path) -> None:
    opened = opened_on(server, tmp_path / "r")
    land(opened, "LR = 1\n")
    assert opened.publish(0.0).ok
    tree = server.git("rev-parse", "main^{tree}")
    stranger = server.git("-c", "user.name=P", "-c", "user.email=p@x", "commit-tree", "-m", "else", tree)
    server.git("update-ref", BRANCH, stranger)
    state = opened.publish(400.0)
    assert state.reason is BranchUpdatedReason.DIVERGED
    assert "nothing in common" in state.message
    assert server.refs()[BRANCH] == stranger


# Two records ----------------------------------------------------------------------------------------------------------


def test_a_lost_volume_is_taken_back_from_the_server(server: GitServer, tmp_path: Path) -> None:
    opened = opened_on(server, tmp_path / "r")
    records = land(opened, "LR = 1\n")
    opened.set_details(seed=9)
    assert opened.publish(0.0).ok
    server.person("refs/heads/main", train__py="LR = 5\n")
    again = opened_on(server, tmp_path / "elsewhere")
    assert again.load().experiments == tuple(records)
    assert again.source_commit == opened.source_commit, "where it began, not where main is now"
    assert again.details["seed"] == 9
    assert again.repository.resolve(BRANCH) == opened.repository.resolve(BRANCH)
    land(again, "LR = 2\n")
    assert again.publish(0.0).ok


def test_a_restored_backup_is_brought_up_to_the_servers_record(server: GitServer, tmp_path: Path) -> None:
    opened = opened_on(server, tmp_path / "r")
    land(opened, "LR = 1\n")
    opened.close()
    shutil.copytree(tmp_path / "r", tmp_path / "backup")
    later = opened_on(server, tmp_path / "r")
    records = land(later, "LR = 2\n")
    assert later.publish(0.0).ok
    restored = opened_on(server, tmp_path / "backup")
    assert restored.load().experiments == tuple(records)
    assert any("was older than the server's" in note for note in restored.notes)
    assert restored.repository.resolve(BRANCH) == later.repository.resolve(BRANCH)


def test_the_same_run_at_work_in_two_clusters_is_branch_in_use(server: GitServer, tmp_path: Path) -> None:
    one, two = opened_on(server, tmp_path / "one"), opened_on(server, tmp_path / "two")
    land(one, "LR = 1\n")
    land(two, "LR = 2\n")
    assert one.publish(0.0).ok
    state = two.publish(0.0)
    assert state.reason is BranchUpdatedReason.BRANCH_IN_USE
    assert "at work elsewhere" in state.message
    assert server.refs()[BRANCH] == one.repository.resolve(BRANCH)
    with pytest.raises(NotReady, match="both went on by themselves") as refused:
        opened_on(server, tmp_path / "two")
    assert refused.value.reason is ReadyReason.BRANCH_IN_USE


def test_a_damaged_repository_is_restored_from_the_server_and_from_itself(server: GitServer, tmp_path: Path) -> None:
    opened = opened_on(server, tmp_path / "r")
    land(opened, "LR = 1\n")
    assert opened.publish(0.0).ok
    records = land(opened, "LR = 2\n")
    path = opened.repository.path
    (path / "HEAD").unlink()
    again = opened_on(server, tmp_path / "r")
    assert again.load().experiments == tuple(records), "also what was not pushed yet"
    tip = again.repository.resolve(LEDGER)
    assert again.publish(0.0).ok
    again.close()
    (path / "objects" / tip[:2] / tip[2:]).unlink(missing_ok=True)
    for pack in (path / "objects" / "pack").glob("*"):
        pack.unlink()
    last = opened_on(server, tmp_path / "r")
    assert last.load().experiments == tuple(records)
    assert last.repository.check() == []


def test_work_goes_on_after_a_restart_while_the_server_is_down(server: GitServer, tmp_path: Path) -> None:
    records = land(opened_on(server, tmp_path / "r"), "LR = 1\n")
    server.broken = True
    again = opened_on(server, tmp_path / "r")
    assert again.load().experiments == tuple(records)
    assert any("could not be asked" in note for note in again.notes)
    with pytest.raises(NotReady) as refused:
        opened_on(server, tmp_path / "new")
    assert refused.value.reason is ReadyReason.GIT_UNAVAILABLE
    assert refused.value.retry_after <= 30


# Whose branch ---------------------------------------------------------------------------------------------------------


def test_two_runs_of_one_volume_do_not_share_a_branch_until_one_is_over(server: GitServer, tmp_path: Path) -> None:
    spec = spec_of(**source_of(server, branch="shared"))
    all_runs = repositories(tmp_path / "r", ca=server.ca)
    first = all_runs.open(run_of("one", "a"), spec)
    for again in (all_runs, repositories(tmp_path / "r", ca=server.ca)):
        with pytest.raises(NotReady, match="the run one in namespace a lands on refs/heads/shared") as refused:
            again.open(run_of("two", "b"), spec)
        assert refused.value.reason is ReadyReason.BRANCH_IN_USE
    assert all_runs.keys() == [Key("a", "one")]
    first.set_details(finished="Complete")
    all_runs.open(run_of("two", "b"), spec)
    assert repositories(tmp_path / "r", ca=server.ca).open(run_of("one", "a"), spec).details["finished"] == "Complete"


def test_a_deleted_run_gives_its_branch_back_here_and_on_the_server(server: GitServer, tmp_path: Path) -> None:
    spec = spec_of(**source_of(server, branch="shared"))
    all_runs = repositories(tmp_path / "r", ca=server.ca)
    first = all_runs.open(run_of("one", "a"), spec)
    assert first.save([baseline(first)], [trial(0)]).ok
    assert first.publish(0.0).ok
    all_runs.release(Key("a", "one"))
    all_runs.open(run_of("two", "b"), spec)
    server.broken = True
    later = repositories(tmp_path / "r", ca=server.ca)
    later.release(Key("b", "two"))
    later.release(Key("b", "two"))


def test_an_unfinished_run_of_another_cluster_keeps_its_branch(server: GitServer, tmp_path: Path) -> None:
    spec = spec_of(**source_of(server, branch="shared"))
    elsewhere = repositories(tmp_path / "elsewhere", ca=server.ca)
    theirs = elsewhere.open(run_of("one", "a"), spec)
    ours = repositories(tmp_path / "here", ca=server.ca)
    early = ours.open(run_of("early", "b"), spec)
    land(theirs, "LR = 1\n")
    assert theirs.publish(0.0).ok
    with pytest.raises(NotReady, match=r"belongs to the unfinished run of refs/autoresearch/a-one/ledger") as refused:
        repositories(tmp_path / "third", ca=server.ca).open(run_of("two", "b"), spec)
    assert refused.value.reason is ReadyReason.BRANCH_IN_USE
    land(early, "LR = 2\n")
    assert early.publish(0.0).reason is BranchUpdatedReason.BRANCH_IN_USE
    theirs.set_details(finished="Complete")
    assert theirs.publish(100.0).ok
    early_state = early.publish(200.0)
    assert early_state.reason is BranchUpdatedReason.DIVERGED, "what the other run accepted is on the branch now"


def test_a_branch_that_exists_and_is_not_from_the_source_is_refused(server: GitServer, tmp_path: Path) -> None:
    server.person("refs/heads/main", train__py="LR = 5\n")
    server.git("branch", "mine", "main")
    server.person("refs/heads/mine", train__py="LR = 6\n")
    with pytest.raises(NotReady, match=r"set source\.ref to that branch") as refused:
        opened_on(server, tmp_path / "r", branch="mine")
    assert refused.value.reason is ReadyReason.BRANCH_IN_USE


def test_names_that_are_written_the_same_way_meet_on_one_server_and_are_told_apart(
    server: GitServer, tmp_path: Path
) -> None:
    all_runs = repositories(tmp_path / "r", ca=server.ca)
    one = all_runs.open(run_of("b-c", "a"), spec_of("b-c", **source_of(server, branch="x")))
    land(one, "LR = 1\n")
    assert one.publish(0.0).ok
    with pytest.raises(NotReady, match="whose name is written the same way"):
        all_runs.open(run_of("c", "a-b"), spec_of("c", **source_of(server, branch="y")))


# What cannot begin ----------------------------------------------------------------------------------------------------


def test_what_is_missing_or_too_large_is_said_before_any_trial(server: GitServer, tmp_path: Path) -> None:
    def reason(name: str, **source: Any) -> tuple[ReadyReason, str]:
        with pytest.raises(NotReady) as refused:
            all_runs.open(run_of(name), spec_of(name, source={"url": server.url, **source}))
        return refused.value.reason, str(refused.value)

    all_runs = repositories(tmp_path / "r", ca=server.ca)
    found, words = reason("ref", ref="mian")
    assert (found, "its branches: main" in words) == (ReadyReason.SOURCE_NOT_FOUND, True)
    found, words = reason("path", editablePaths=["model.py"])
    assert (found, "model.py matches no file" in words) == (ReadyReason.SOURCE_NOT_FOUND, True)
    found, words = reason("url", url=server.url.replace("research", "other"))
    assert found is ReadyReason.SOURCE_NOT_FOUND
    found, words = reason("secret", secretName="none")
    assert (found, "no Secret none" in words) == (ReadyReason.SECRET_NOT_ALLOWED, True)
    noise = "".join(f"{number * 7919 % 1000003:x}" for number in range(400_000))
    server.person("refs/heads/main", big__py=f'X = "{noise}"\n')
    found, words = reason("large", ref="main")
    assert (found, "big.py" in words) == (ReadyReason.SOURCE_TOO_LARGE, True)
    server.password = "x"  # noqa: S105
    assert reason("word")[0] is ReadyReason.CREDENTIALS_REJECTED


def test_the_record_of_local_mode_is_not_taken_for_the_clusters(server: GitServer, tmp_path: Path) -> None:
    opened = opened_on(server, tmp_path / "r")
    blob = tmp_path / "run.json"
    blob.write_text('{"version": 1, "request": "spec: {}", "namespace": "default", "name": "first"}')
    tree = server.git("hash-object", "-w", str(blob))
    (tmp_path / "tree").write_text(f"100644 blob {tree}\trun.json\n")
    import subprocess

    made = subprocess.run(
        ["git", "-C", str(server.path), "mktree"], input=(tmp_path / "tree").read_bytes(), capture_output=True,
        check=True,
    )  # fmt: skip
    commit = server.git(
        "-c", "user.name=P", "-c", "user.email=p@x", "commit-tree", "-m", "ledger", made.stdout.decode().strip()
    )
    server.git("update-ref", LEDGER, commit)
    with pytest.raises(NotReady, match="autoresearch run"):
        opened_on(server, tmp_path / "new")
    assert opened.save([baseline(opened)], [trial(0)]).ok
    assert opened.publish(0.0).reason is BranchUpdatedReason.BRANCH_IN_USE
