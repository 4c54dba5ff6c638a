"""A Secret is used where its owner allowed it, leaves no trace, and is refused with a sentence otherwise."""

import base64
import os
import stat
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
from autoresearch_operator.cluster.credentials import SecretNotAllowed, address, check_allowed, credentials
from autoresearch_operator.gateways.process import Access
from hypothesis import given
from hypothesis import strategies as st
from runrepositories import secret

BASIC, SSH = "kubernetes.io/basic-auth", "kubernetes.io/ssh-auth"
URL = "https://git.lab.example/ml/research.git"


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        ("git.lab.example", URL),
        ("other.example, git.lab.example", URL),
        ("GIT.lab.example", "https://git.LAB.example/x"),
        ("git.lab.example:443", URL),
        ("git.lab.example:8443", "https://git.lab.example:8443/x"),
        ("*.lab.example", URL),
        ("*.example", URL),
        ("git.lab.example", "git@git.lab.example:ml/x.git"),
        ("git.lab.example:2222", "ssh://git@git.lab.example:2222/ml/x.git"),
        ("[fd00::1]:2222", "ssh://git@[fd00::1]:2222/x"),
        ("[fd00::1]", "https://[fd00::1]/x"),
        ("git.lab.example", "https://git.lab.example./x"),
    ],
)
def test_a_host_that_the_owner_wrote_is_allowed(hosts: str, url: str) -> None:
    check_allowed(secret(BASIC, hosts), url)


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        ("", URL),
        ("lab.example", URL),
        ("*", URL),
        ("*.*", URL),
        ("git.*", URL),
        ("*.lab.example", "https://lab.example/x"),
        ("*.lab.example", "https://evillab.example/x"),
        ("git.lab.example", "https://git.lab.example.evil.example/x"),
        ("git.lab.example", "https://git.lab.example:8443/x"),
        ("git.lab.example:8443", URL),
        ("https://git.lab.example", URL),
        ("git.lab.example/ml", URL),
        ("git.lab.example", "https://git.lab.example@evil.example/x"),
        ("git.lab.example", "ssh://git@git.lab.example:2222/x"),
    ],
)
def test_another_host_or_port_is_refused_with_what_to_write(hosts: str, url: str) -> None:
    with pytest.raises(SecretNotAllowed, match=r"the Secret lab-git .*autoresearch\.dev/hosts"):
        check_allowed(secret(BASIC, hosts), url)


def test_a_secret_without_the_label_is_refused_with_the_command_that_sets_it() -> None:
    for usable in (None, "false", "True", ""):
        with pytest.raises(SecretNotAllowed, match=r"kubectl label secret lab-git autoresearch\.dev/usable=true"):
            check_allowed(secret(BASIC, "git.lab.example", usable=usable), URL)


@pytest.mark.parametrize(
    ("given_secret", "url", "sentence"),
    [
        (secret("Opaque", "git.lab.example", username="a", word="b"), URL, "type Opaque.*basic-auth"),
        (secret(SSH, "git.lab.example", ssh_privatekey="k"), URL, "needs one of type kubernetes.io/basic-auth"),
        (secret(BASIC, "git.lab.example", username="a", word="b"), "git@git.lab.example:x", "ssh-auth"),
        (secret(BASIC, "git.lab.example", username="a"), URL, "no password"),
        (secret(BASIC, "git.lab.example", word="b"), URL, "no username.*such as git"),
        (secret(BASIC, "git.lab.example", username="a", word="b\nquit=1"), URL, "line break"),
        (secret(SSH, "git.lab.example", ssh_privatekey="k"), "git@git.lab.example:x", "no known_hosts.*ssh-keyscan"),
        (secret(SSH, "git.lab.example", known_hosts="k"), "git@git.lab.example:x", "no ssh-privatekey"),
    ],
)
def test_an_unusable_secret_says_what_is_missing(given_secret, url: str, sentence: str) -> None:
    with pytest.raises(SecretNotAllowed, match=sentence), credentials(given_secret, url, Access()):
        pytest.fail("it was taken")


def test_bytes_that_are_no_text_are_refused() -> None:
    broken = secret(BASIC, "git.lab.example", username="a")
    broken["data"]["password"] = base64.b64encode(b"\xff\xfe").decode()
    with pytest.raises(SecretNotAllowed, match="password is not text"), credentials(broken, URL, Access()):
        pytest.fail("it was taken")


def answer_of(access: Access, url: str) -> str:
    """What git itself would send to `url`."""
    variables = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_COUNT": str(len(access.configuration)),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
    }
    for index, (key, value) in enumerate(access.configuration.items()):
        variables |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
    done = subprocess.run(
        ["git", "credential", "fill"], input=f"url={url}\n", env=variables, capture_output=True, text=True, check=False
    )
    return done.stdout


def test_git_gets_the_password_for_that_host_only_and_nothing_stays() -> None:
    with credentials(secret(BASIC, "git.lab.example", username="me", word="p'w \"$x"), URL, Access()) as access:
        assert "password=p'w \"$x\n" in answer_of(access, URL)
        assert "password" not in answer_of(access, "https://other.example/x")
        assert "password" not in answer_of(access, "https://git.lab.example:8443/x")
        assert "p'w" not in repr(access)
        folder = next(
            Path(word.strip("'\";} ")).parent for word in str(access.configuration).split() if "/cred" in word
        )
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]
    assert not folder.exists()


def test_a_final_line_break_is_no_part_of_a_password() -> None:
    with credentials(secret(BASIC, "git.lab.example", username="me\n", word="pw\r\n"), URL, Access()) as access:
        assert "username=me\npassword=pw\n" in answer_of(access, URL)


def test_ssh_trusts_the_secrets_hosts_alone_and_nothing_stays() -> None:
    given_secret = secret(
        SSH, "git.lab.example", ssh_privatekey="KEY\r\nLINE", known_hosts="git.lab.example ssh-ed25519 A"
    )
    with credentials(given_secret, "git@git.lab.example:x", Access()) as access:
        words = access.ssh_command.split()
        key = Path(next(word for word in words if "IdentityFile" in word).partition("=")[2])
        assert key.read_text() == "KEY\nLINE\n"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert "-oStrictHostKeyChecking=yes" in words
        assert "-oGlobalKnownHostsFile=/dev/null" in words
        assert "KEY" not in access.ssh_command
    assert not key.parent.exists()


@given(st.text(min_size=4, max_size=30), st.text(max_size=20), st.text(max_size=20))
def test_a_secret_is_never_repeated_in_any_form(password: str, before: str, after: str) -> None:
    password = password.replace("\0", "x")
    if not password.strip() or password in before + "[redacted]" + after:
        return
    access = Access(secrets=(password, f"me:{password}"))
    for form in (password, quote(password, safe=""), base64.b64encode(f"me:{password}".encode()).decode()):
        said = access.redact(f"{before} {form} {after}")
        assert form not in said or form in "[redacted]"


def test_all_spellings_of_a_repository_are_one() -> None:
    spellings = (
        "https://h.example/a/b.git",
        "https://h.example:8443/a/b",
        "git@h.example:a/b.git",
        "ssh://git@h.example/a/b/",
    )
    assert {address(url).repository for url in spellings} == {("h.example", "a/b")}
