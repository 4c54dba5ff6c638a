"""A run's branch and ledger go to the server together, and never over somebody else's work."""

from pathlib import Path

from autoresearch_operator.gateways.errors import Outcome
from autoresearch_operator.gateways.git import Change, Repository
from autoresearch_operator.gateways.ledger import Ledger
from autoresearch_operator.gateways.process import Access
from autoresearch_operator.gateways.publish import publish
from autoresearch_operator.gateways.remote import clone

BRANCH = "refs/heads/autoresearch/default-first"
LEDGER = "refs/autoresearch/default-first"
HTTP = Access(protocols=frozenset({"http"}))


def run_on(server, path: Path, ledger: str = LEDGER, branch: str = BRANCH) -> tuple[Repository, str]:
    repository, source = clone(path, server.url, "main", branch, access=HTTP)
    assert Ledger(repository, ledger).save([], [], {"branch_ref": branch, "who": ledger}, when=1).ok
    return repository, source


def accept(repository: Repository, text: str) -> str:
    head = repository.resolve(BRANCH)
    commit, _ = repository.write_candidate(head, {"train.py": text.encode()}, "land\n", 1_700_000_000)
    assert repository.update([Change(BRANCH, head, commit)]).ok
    return commit


def test_branch_and_ledger_arrive_and_a_second_time_nothing_is_pushed(server, tmp_path: Path) -> None:
    repository, _ = run_on(server, tmp_path / "r.git")
    landed = accept(repository, "LR = 1\n")
    assert publish(repository, server.url, BRANCH, LEDGER).ok
    assert server.refs()[BRANCH] == landed
    assert server.refs()[LEDGER] == repository.resolve(LEDGER)
    pushes = len(server.pushes)
    assert publish(repository, server.url, BRANCH, LEDGER).ok
    assert len(server.pushes) == pushes
    accept(repository, "LR = 2\n")
    server.drop_answers = 1
    assert publish(repository, server.url, BRANCH, LEDGER).outcome is Outcome.UNAVAILABLE
    assert publish(repository, server.url, BRANCH, LEDGER).ok
    assert server.refs()[BRANCH] == repository.resolve(BRANCH)


def test_a_branch_of_another_unfinished_run_is_in_use(server, tmp_path: Path) -> None:
    first, _ = run_on(server, tmp_path / "r.git")
    assert publish(first, server.url, BRANCH, LEDGER).ok
    second, _ = run_on(server, tmp_path / "s.git", "refs/autoresearch/default-second")
    accept(second, "LR = 2\n")
    result = publish(second, server.url, BRANCH, "refs/autoresearch/default-second")
    assert result.outcome is Outcome.BRANCH_IN_USE
    assert LEDGER in result.message


def test_a_persons_commit_on_the_servers_branch_is_left_alone(server, tmp_path: Path) -> None:
    repository, _ = run_on(server, tmp_path / "r.git")
    assert publish(repository, server.url, BRANCH, LEDGER).ok
    person, _ = clone(tmp_path / "p.git", server.url, "main", BRANCH, access=HTTP)
    theirs = accept(person, "by hand\n")
    server.git("fetch", "-q", str(person.path), f"+{BRANCH}:{BRANCH}")
    accept(repository, "LR = 3\n")
    result = publish(repository, server.url, BRANCH, LEDGER)
    assert result.outcome is Outcome.DIVERGED
    assert theirs[:12] in result.message
    assert server.refs()[BRANCH] == theirs
