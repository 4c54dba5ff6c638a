"""Servers: what they say is a result with a sentence, and a push is all, none, or repeated with the same names."""

import threading
from pathlib import Path

import pytest
from autoresearch_operator.gateways.errors import GitError, Outcome, SourceNotFound, SourceRefused
from autoresearch_operator.gateways.git import Change, Repository
from autoresearch_operator.gateways.names import check_url
from autoresearch_operator.gateways.process import Access
from autoresearch_operator.gateways.remote import Remote, clone
from gitservers import http_server

BRANCH = "refs/heads/autoresearch/default-first"
LEDGER = "refs/autoresearch/default-first"
HTTP = Access(protocols=frozenset({"http", "file"}))
WHEN = 1_700_000_000


def askpass(tmp_path: Path, password: str) -> Access:
    program = tmp_path / "askpass"
    program.write_text(f'#!/bin/sh\ncase "$1" in User*) echo me;; *) echo {password};; esac\n')
    program.chmod(0o755)
    return Access(protocols=HTTP.protocols, askpass=str(program))


def landing(repository: Repository, base: str, text: str = "LR = 1\n") -> str:
    candidate, tree = repository.write_candidate(base, {"train.py": text.encode()}, "try\n", WHEN)
    with repository.writer() as writer:
        return writer.commit(parents=(base, candidate), tree=tree, message="land\n", when=WHEN)[0]


def test_a_clone_has_the_source_and_a_branch_of_its_own(server, tmp_path: Path) -> None:
    repository, source = clone(tmp_path / "r.git", server.url, "main", BRANCH, access=HTTP)
    assert source == server.refs()["refs/heads/main"]
    assert repository.resolve(BRANCH) == source
    assert repository.read_files(source, ["train.py"]) == {"train.py": b"LR = 0.1\n"}
    again, by_name = clone(tmp_path / "s.git", server.url, source, BRANCH, access=HTTP)
    assert by_name == source == again.resolve(BRANCH)
    local, from_path = clone(tmp_path / "t.git", str(server.path), "HEAD", BRANCH, access=HTTP)
    assert from_path == source == local.resolve(BRANCH)


def test_a_clone_continues_the_branch_that_the_server_has(server, tmp_path: Path) -> None:
    repository, source = clone(tmp_path / "r.git", server.url, "HEAD", BRANCH, access=HTTP)
    new = landing(repository, source)
    assert Remote(repository, server.url).push([Change(BRANCH, None, new)]).ok
    later, again = clone(tmp_path / "s.git", server.url, "HEAD", BRANCH, access=HTTP)
    assert (again, later.resolve(BRANCH)) == (source, new)


def test_what_does_not_exist_is_said_with_what_does(server, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"source\.ref 'mian'.*branches: main"):
        clone(tmp_path / "r.git", server.url, "mian", BRANCH, access=HTTP)
    with pytest.raises(SourceNotFound, match=r"check source\.url"):
        clone(tmp_path / "r.git", server.url.replace("research", "other"), "HEAD", BRANCH, access=HTTP)
    with pytest.raises(SourceNotFound):
        clone(tmp_path / "r.git", str(tmp_path / "nowhere"), "HEAD", BRANCH, access=HTTP)
    assert not (tmp_path / "r.git").exists()


def test_branch_and_ledger_are_pushed_together_or_not_at_all(server, tmp_path: Path) -> None:
    repository, source = clone(tmp_path / "r.git", server.url, "HEAD", BRANCH, access=HTTP)
    remote, new = Remote(repository, server.url), landing(repository, source)
    assert remote.push([Change(BRANCH, None, new), Change(LEDGER, None, new)]).ok
    assert {server.refs()[BRANCH], server.refs()[LEDGER]} == {new}
    third = landing(repository, new, "LR = 3\n")
    stale = remote.push([Change(BRANCH, new, third), Change(LEDGER, source, third)])
    assert stale.outcome is Outcome.CONFLICT
    assert server.refs()[BRANCH] == new


def test_a_push_that_was_applied_without_an_answer_is_a_success_when_repeated(server, tmp_path: Path) -> None:
    repository, source = clone(tmp_path / "r.git", server.url, "HEAD", BRANCH, access=HTTP)
    remote, new = Remote(repository, server.url), landing(repository, source)
    changes = [Change(BRANCH, None, new), Change(LEDGER, None, new)]
    server.drop_answers = 1
    assert remote.push(changes).outcome is Outcome.UNAVAILABLE
    assert server.refs()[BRANCH] == new
    assert remote.push(changes).ok


def test_a_server_that_is_down_or_broken_is_unavailable_and_nothing_moves(server, tmp_path: Path) -> None:
    repository, source = clone(tmp_path / "r.git", server.url, "HEAD", BRANCH, access=HTTP)
    server.broken = True
    result = Remote(repository, server.url).push([Change(BRANCH, None, landing(repository, source))])
    assert result.outcome is Outcome.UNAVAILABLE
    assert "tried again" in result.message
    gone = Remote(repository, "http://127.0.0.1:9/x.git")
    assert gone.look().outcome is Outcome.UNAVAILABLE
    with pytest.raises(GitError, match=r"127\.0\.0\.1:9"):
        clone(tmp_path / "s.git", "http://127.0.0.1:9/x.git", "HEAD", BRANCH, access=HTTP)


def test_a_hook_that_refuses_is_a_rejection_in_the_servers_words(server, tmp_path: Path) -> None:
    repository, source = clone(tmp_path / "r.git", server.url, "HEAD", BRANCH, access=HTTP)
    server.hook("pre-receive", "echo 'branch is protected: open a merge request' >&2; exit 1")
    result = Remote(repository, server.url).push(
        [Change(BRANCH, None, landing(repository, source)), Change(LEDGER, None, source)]
    )
    assert result.outcome is Outcome.REJECTED
    assert "branch is protected: open a merge request" in result.message
    assert BRANCH not in server.refs()
    server.hook("pre-receive", "exit 0")
    server.hook("update", f'[ "$1" != {BRANCH} ] || {{ echo "no pushes to $1" >&2; exit 1; }}')
    result = Remote(repository, server.url).push(
        [Change(BRANCH, None, landing(repository, source)), Change(LEDGER, None, source)]
    )
    assert result.outcome is Outcome.REJECTED
    assert LEDGER not in server.refs(), "all or none"


def test_credentials_come_from_askpass_and_wrong_ones_are_told(server, tmp_path: Path) -> None:
    server.password = "right"  # noqa: S105 - of a server that lives for this test
    with pytest.raises(GitError, match="does not accept the credentials"):
        clone(tmp_path / "r.git", server.url, "HEAD", BRANCH, access=HTTP)
    repository, source = clone(tmp_path / "s.git", server.url, "HEAD", BRANCH, access=askpass(tmp_path, "right"))
    assert Remote(repository, server.url).push([Change(BRANCH, None, landing(repository, source))]).ok
    wrong = Remote(Repository.open(repository.path, access=askpass(tmp_path, "wrong")), server.url)
    assert wrong.look().outcome is Outcome.CREDENTIALS


def test_a_persons_commit_on_the_branch_is_a_conflict_and_is_never_overwritten(server, tmp_path: Path) -> None:
    ours, source = clone(tmp_path / "r.git", server.url, "HEAD", BRANCH, access=HTTP)
    theirs, _ = clone(tmp_path / "s.git", server.url, "HEAD", BRANCH, access=HTTP)
    one, two = landing(ours, source), landing(theirs, source, "LR = 2\n")
    assert Remote(theirs, server.url).push([Change(BRANCH, None, two)]).ok
    remote = Remote(ours, server.url)
    assert remote.push([Change(BRANCH, None, one)]).outcome is Outcome.CONFLICT
    assert remote.look().refs[BRANCH] == two
    assert remote.push([Change(BRANCH, two, one)]).outcome is Outcome.CONFLICT
    assert remote.fetch({BRANCH: "refs/remote/branch"}).refs == {"refs/remote/branch": two}
    assert remote.push([Change(BRANCH, two, one)]).outcome is Outcome.DIVERGED
    assert server.refs()[BRANCH] == two


def test_of_two_pushers_at_once_exactly_one_wins(server, tmp_path: Path) -> None:
    sides = [clone(tmp_path / f"{i}.git", server.url, "HEAD", BRANCH, access=HTTP) for i in range(2)]
    news = [landing(repository, source, f"LR = {i}\n") for i, (repository, source) in enumerate(sides)]
    outcomes: list[Outcome] = []

    def push(side: int) -> None:
        changes = [Change(BRANCH, None, news[side]), Change(LEDGER, None, news[side])]
        outcomes.append(Remote(sides[side][0], server.url).push(changes).outcome)

    threads = [threading.Thread(target=push, args=(side,)) for side in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted([Outcome.PUSHED, Outcome.CONFLICT])
    assert server.refs()[BRANCH] == server.refs()[LEDGER]


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("https://me:secret@host/x.git", "secretName"),
        ("http://host/x.git", "use https"),
        ("git://host/x.git", "use https"),
        ("file:///srv/x.git", "use https"),
        ("ext::sh -c id", "no spaces"),
        ("ext::id", "not understood"),
        ("--upload-pack=id", "dash"),
        ("ssh://-oProxyCommand=id/x", "dash"),
        ("/srv/x.git", "only local mode"),
    ],
)
def test_urls_that_could_do_harm_are_refused(url: str, sentence: str) -> None:
    with pytest.raises(SourceRefused, match=sentence):
        check_url(url, Access())


@pytest.mark.parametrize("url", ["https://host/x.git", "ssh://git@host:22/x.git", "git@git.lab.example:ml/x.git"])
def test_the_usual_urls_are_taken(url: str) -> None:
    assert check_url(url, Access()) == url


def test_a_server_with_a_certificate_of_the_sites_own_authority_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chart's caBundle arrives as this variable; every other one of a surrounding git stays outside."""
    with http_server(tmp_path, tls=True) as server:
        with pytest.raises(GitError, match="certificate"):
            clone(tmp_path / "r.git", server.url, "main", BRANCH, access=Access())
        monkeypatch.setenv("GIT_SSL_CAINFO", str(server.ca))
        _, source = clone(tmp_path / "s.git", server.url, "main", BRANCH, access=Access())
    assert source == server.refs()["refs/heads/main"]
