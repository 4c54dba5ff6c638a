"""A bare repository: names follow from content, refs move by compare-and-swap, nothing of the machine's git applies."""

import subprocess
import threading
from pathlib import Path

import pytest
from autoresearch_operator.gateways.errors import (
    GitError,
    Outcome,
    RepositoryDamaged,
    SourceNotFound,
    SourceRefused,
    SourceTooLarge,
    StorageFull,
)
from autoresearch_operator.gateways.git import LOCK_WAITS, Change, Repository
from autoresearch_operator.gateways.landing import commit_message, reparent
from autoresearch_operator.gateways.process import Access, fault

BRANCH = "refs/heads/autoresearch/default-first"
FILES = {"train.py": b"LR = 0.1\n", "prepare.py": b"T = 128\n", "lib/data.py": b"pass\n"}
WHEN = 1_700_000_000


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository.create(tmp_path / "repo.git", FILES, branch_ref=BRANCH, message="the source\n", when=WHEN)


def git(path: Path, *args: str, **extra: str) -> str:
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(path), "GIT_CONFIG_NOSYSTEM": "1", **extra}
    done = subprocess.run(["git", "-C", str(path), *args], env=environment, capture_output=True, check=True, text=True)
    return done.stdout.strip()


def persons_commit(repository: Repository, tmp_path: Path, files: dict[str, str], branch: str = BRANCH) -> str:
    """What a person does: clone, edit, commit, push."""
    work = tmp_path / f"person-{len(list(tmp_path.iterdir()))}"
    subprocess.run(["git", "clone", "-q", str(repository.path), str(work)], check=True)
    for path, text in files.items():
        (work / path).write_text(text)
    git(work, "add", ".")
    git(work, "-c", "user.name=P", "-c", "user.email=p@example.org", "commit", "-q", "-m", "by hand")
    git(work, "push", "-q", "origin", f"HEAD:{branch}")
    return git(work, "rev-parse", "HEAD")


def test_two_repositories_from_one_template_have_the_same_first_commit(tmp_path: Path) -> None:
    one, two = (
        Repository.create(tmp_path / name, FILES, branch_ref=BRANCH, message="the source\n", when=WHEN)
        for name in ("one.git", "two.git")
    )
    assert one.resolve(BRANCH) == two.resolve(BRANCH)
    candidates = {
        r.write_candidate(one.resolve(BRANCH), {"train.py": b"LR = 0.2\n"}, "try\n", WHEN) for r in (one, two)
    }
    assert len(candidates) == 1


def test_a_repository_is_never_made_over_another(repository: Repository) -> None:
    with pytest.raises(GitError, match="exists"):
        Repository.create(repository.path, FILES, branch_ref=BRANCH, message="m", when=WHEN)


def test_a_candidate_changes_only_what_it_edits_and_keeps_the_mode(repository: Repository, tmp_path: Path) -> None:
    work = tmp_path / "work"
    subprocess.run(["git", "clone", "-q", str(repository.path), str(work)], check=True)
    (work / "train.py").chmod(0o755)
    git(work, "-c", "user.name=P", "-c", "user.email=p@example.org", "commit", "-q", "-am", "executable")
    git(work, "push", "-q", "origin", f"HEAD:{BRANCH}")
    base = repository.resolve(BRANCH)
    commit, tree = repository.write_candidate(base, {"train.py": b"LR = 0.2\n", "lib/new.py": b""}, "try\n", WHEN)
    assert repository.commit(commit).tree == tree
    assert repository.commit(commit).parents == (base,)
    assert repository.entries(commit)["train.py"].mode == "100755"
    assert repository.changed_files(base, commit) == {"train.py": b"LR = 0.2\n", "lib/new.py": b""}
    assert "-LR = 0.1\n+LR = 0.2\n" in repository.diff(base, commit)


def test_several_commits_of_one_session_may_build_on_each_other(repository: Repository) -> None:
    base = repository.resolve(BRANCH)
    with repository.writer() as writer:
        candidate, tree = repository.write_candidate(base, {"train.py": b"LR = 1\n"}, "try\n", WHEN, writer=writer)
        landing = repository.landing_commit(base, tree, "land\n", WHEN, writer=writer)
        top, _ = writer.commit(parents=(landing, candidate), message="both\n", when=WHEN)
    assert repository.commit(top).parents == (landing, candidate)
    assert repository.commit(landing).tree == repository.commit(candidate).tree
    assert repository.check() == []
    assert set(repository.refs()) == {BRANCH}


def test_a_landing_says_in_trailers_what_decided(repository: Repository) -> None:
    base = repository.resolve(BRANCH)
    _, tree = repository.write_candidate(base, {"train.py": b"LR = 1\n"}, "try\n", WHEN)
    message = commit_message(
        "LR .1\n-> 1", "Why not.", {"Run": "default/first", "Experiment": 7, "Val-BPB": 1.25, "x": None}
    )
    landing = repository.commit(repository.landing_commit(base, tree, message, WHEN))
    assert landing.subject == "LR .1 -> 1"
    assert landing.trailers == {
        "Autoresearch-Run": "default/first",
        "Autoresearch-Experiment": "7",
        "Autoresearch-Val-BPB": "1.250000",
    }


def test_refs_move_all_or_none(repository: Repository) -> None:
    base = repository.resolve(BRANCH)
    new = repository.write_candidate(base, {"train.py": b"LR = 1\n"}, "try\n", WHEN)[0]
    other = "refs/autoresearch/default-first"
    wrong = repository.update([Change(BRANCH, base, new), Change(other, base, new)])
    assert wrong.outcome is Outcome.CONFLICT
    assert repository.resolve(BRANCH) == base
    assert repository.update([Change(BRANCH, base, new), Change(other, None, new)]).ok
    assert repository.refs() == {BRANCH: new, other: new}


def test_the_same_move_again_is_a_success(repository: Repository) -> None:
    base = repository.resolve(BRANCH)
    new = repository.write_candidate(base, {"train.py": b"LR = 1\n"}, "try\n", WHEN)[0]
    assert repository.update([Change(BRANCH, base, new)]).ok
    assert repository.update([Change(BRANCH, base, new)]).ok


def test_a_ref_never_moves_away_from_a_commit(repository: Repository) -> None:
    base = repository.resolve(BRANCH)
    one, two = (repository.write_candidate(base, {"train.py": text}, "try\n", WHEN)[0] for text in (b"1\n", b"2\n"))
    assert repository.update([Change(BRANCH, base, one)]).ok
    assert repository.update([Change(BRANCH, one, two)]).outcome is Outcome.DIVERGED
    assert repository.resolve(BRANCH) == one


def test_of_two_at_once_exactly_one_moves_the_ref(repository: Repository) -> None:
    base = repository.resolve(BRANCH)
    commits = [repository.write_candidate(base, {"train.py": b"%d\n" % i}, "try\n", WHEN)[0] for i in range(4)]
    outcomes: list[Outcome] = []
    threads = [
        threading.Thread(target=lambda new=new: outcomes.append(repository.update([Change(BRANCH, base, new)]).outcome))
        for new in commits
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted([Outcome.PUSHED, *[Outcome.CONFLICT] * 3])


def test_a_lock_that_goes_away_is_waited_for_and_one_that_stays_is_named(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = repository.resolve(BRANCH)
    new = repository.write_candidate(base, {"train.py": b"1\n"}, "try\n", WHEN)[0]
    lock = repository.path / f"{BRANCH}.lock"
    lock.touch()
    monkeypatch.setattr("autoresearch_operator.gateways.git.LOCK_WAITS", (0.01, 0.01))
    stuck = repository.update([Change(BRANCH, base, new)])
    assert stuck.outcome is Outcome.LOCKED
    assert str(lock) in stuck.message
    assert "remove that file" in stuck.message
    monkeypatch.setattr("autoresearch_operator.gateways.git.LOCK_WAITS", LOCK_WAITS)
    threading.Timer(0.1, lock.unlink).start()
    assert repository.update([Change(BRANCH, base, new)]).ok


def test_declared_files_are_read_by_path_folder_and_glob(repository: Repository) -> None:
    base = repository.resolve(BRANCH)
    assert set(repository.read_files(base, ["train.py", "lib"])) == {"train.py", "lib/data.py"}
    assert set(repository.read_files(base, ["*.py"])) == set(FILES)
    with pytest.raises(SourceNotFound, match=r"trian\.py"):
        repository.read_files(base, ["trian.py"])


def test_a_symlink_among_the_inputs_is_refused(repository: Repository) -> None:
    base = repository.resolve(BRANCH)
    with repository.writer() as writer:
        commit, _ = writer.commit(
            parents=(base,),
            message="m\n",
            when=WHEN,
            changed={"train.py": b"/etc/passwd"},
            modes={"train.py": "120000"},
        )
    with pytest.raises(SourceRefused, match=r"train\.py is a symlink"):
        repository.read_files(commit, ["train.py"])
    with pytest.raises(SourceRefused, match="symlink"):
        repository.write_candidate(commit, {"train.py": b"x"}, "m", WHEN)


def test_inputs_over_the_limit_are_refused_with_the_largest_named(repository: Repository) -> None:
    import random

    noise = random.Random(1).randbytes(750 * 1024)
    base = repository.resolve(BRANCH)
    commit, _ = repository.write_candidate(base, {"big.py": noise}, "m", WHEN)
    with pytest.raises(SourceTooLarge, match=r"big\.py"):
        repository.read_files(commit, ["*.py"])
    compressible, _ = repository.write_candidate(base, {"big.py": b"x = 1\n" * 200_000}, "m", WHEN)
    assert repository.read_files(compressible, ["*.py"])
    huge, _ = repository.write_candidate(base, {"big.py": b"x = 1\n" * 3_000_000}, "m", WHEN)
    with pytest.raises(SourceTooLarge, match="16 MiB"):
        repository.read_files(huge, ["*.py"])


@pytest.mark.parametrize("path", ["../x", "/etc/x", ".git/config", "a/.GIT/x", "a\nb", "", "a//b", '"x"', "a/./b"])
def test_paths_that_leave_the_tree_are_refused(repository: Repository, path: str) -> None:
    with pytest.raises(SourceRefused):
        repository.write_candidate(repository.resolve(BRANCH), {path: b""}, "m", WHEN)


@pytest.mark.parametrize(
    "ref", ["main", "--upload-pack=x", "refs/heads/a..b", "refs/heads/-x", "refs/heads/x.lock", "refs/heads/a b"]
)
def test_refs_that_git_would_misread_are_refused(repository: Repository, ref: str) -> None:
    with pytest.raises(SourceRefused):
        repository.update([Change(ref, None, repository.resolve(BRANCH))])


def test_a_name_that_looks_like_an_option_is_only_a_name(repository: Repository) -> None:
    assert repository.resolve_or_none("--help") is None
    with pytest.raises(SourceRefused):
        repository.resolve("a b")


def test_neither_hooks_nor_configuration_of_the_machine_apply(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = repository.path / "hooks"
    hooks.mkdir()
    (hooks / "reference-transaction").write_text("#!/bin/sh\nexit 1\n")
    (hooks / "reference-transaction").chmod(0o755)
    (tmp_path / ".gitconfig").write_text("[user]\n\tname = Somebody\n[core]\n\tfsync = none\nnonsense\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody")
    again = Repository.open(repository.path)
    base = again.resolve(BRANCH)
    new = again.write_candidate(base, {"train.py": b"1\n"}, "try\n", WHEN)[0]
    assert again.update([Change(BRANCH, base, new)]).ok
    assert b"Autoresearch <autoresearch@localhost>" in again._objects.read(new)[1]


def test_a_damaged_object_is_found_and_named(repository: Repository) -> None:
    base = repository.resolve(BRANCH)
    sha = repository.entries(base)["train.py"].sha
    path = repository.path / "objects" / sha[:2] / sha[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:5])
    assert any(sha in line for line in Repository.open(repository.path).check())
    with pytest.raises(RepositoryDamaged, match=sha):
        Repository.open(repository.path).blob(sha)


def test_a_snapshot_rebuilds_the_source_in_an_empty_repository(repository: Repository, tmp_path: Path) -> None:
    base = repository.resolve(BRANCH)
    commit, tree = repository.write_candidate(base, {"train.py": b"1\n"}, "try\n", WHEN)
    pack = repository.snapshot(commit)
    fresh = Repository.init(tmp_path / "fresh.git")
    fresh.restore_snapshot(pack, commit)
    assert fresh.commit(commit).tree == tree
    assert fresh.update([Change(BRANCH, None, commit)]).ok
    assert fresh.check() == []
    assert fresh.read_files(commit, ["train.py"]) == {"train.py": b"1\n"}


def test_a_full_disk_has_its_own_error() -> None:
    assert isinstance(fault("fatal: write error: No space left on device", "writing"), StorageFull)


def test_a_landing_moves_on_top_of_a_persons_commit_that_leaves_the_inputs_alone(
    repository: Repository, tmp_path: Path
) -> None:
    base = repository.resolve(BRANCH)
    _, tree = repository.write_candidate(base, {"train.py": b"LR = 1\n"}, "try\n", WHEN)
    landing = repository.landing_commit(base, tree, "land\n", WHEN)
    head = persons_commit(repository, tmp_path, {"README.md": "hello\n"})
    moved = reparent(repository, landing, head, ["*.py"])
    assert moved is not None
    assert moved == reparent(repository, landing, head, ["*.py"])
    assert repository.commit(moved).parents == (head,)
    assert repository.read_files(moved, ["train.py", "README.md"]) == {"train.py": b"LR = 1\n", "README.md": b"hello\n"}
    assert reparent(repository, landing, head, []) is None, "without declared inputs every file counts"


def test_a_landing_does_not_move_on_top_of_a_commit_that_changes_the_inputs(
    repository: Repository, tmp_path: Path
) -> None:
    base = repository.resolve(BRANCH)
    _, tree = repository.write_candidate(base, {"train.py": b"LR = 1\n"}, "try\n", WHEN)
    landing = repository.landing_commit(base, tree, "land\n", WHEN)
    head = persons_commit(repository, tmp_path, {"lib/data.py": "changed\n"})
    assert reparent(repository, landing, head, ["*.py"]) is None
    unrelated = Repository.create(tmp_path / "u.git", {"x": b""}, branch_ref=BRANCH, message="m", when=WHEN)
    other = unrelated.resolve(BRANCH)
    repository.restore_snapshot(unrelated.snapshot(other), other)
    assert reparent(repository, landing, other, ["*.py"]) is None


def test_packing_keeps_everything_also_what_no_ref_holds(repository: Repository) -> None:
    base = repository.resolve(BRANCH)
    commit, _ = repository.write_candidate(base, {"train.py": b"1\n"}, "try\n", WHEN)
    repository.repack()
    assert repository.has(commit)
    assert Repository.open(repository.path).has(commit)


def test_file_urls_are_for_local_mode_only() -> None:
    assert "file" not in Access().protocols
    assert "file" in Access.local().protocols
