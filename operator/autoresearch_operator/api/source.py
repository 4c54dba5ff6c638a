"""Where the code comes from and where accepted edits go."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from autoresearch_operator.api.base import (
    LOCAL,
    ListOnly,
    Model,
    ObjectName,
    Refusals,
    RelativePath,
    Want,
    refusal,
    relative_path,
    shown,
)

DEFAULT_TEMPLATE = "tiny-gpt"
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_SCP = re.compile(r"^(?P<user>[^@/\s]+)@(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?P<path>[^\s-]\S*)$")
_HOST = re.compile(r"^(?:[A-Za-z0-9][A-Za-z0-9.-]*|[0-9a-f:]*:[0-9a-f:.]*)$")
_CREDENTIALS = "put credentials in secretName"
_FORMS = "https://, ssh:// or git@host:path"


def default_branch(namespace: str, name: str) -> str:
    """The branch that accepted edits go to when `spec.source.branch` is not set."""
    return f"autoresearch/{namespace}-{name}"


def is_local_path(url: str) -> bool:
    """Whether a source is a folder of this machine: it starts with `/`, `./`, `../` or `~/`, or is `.` or `..`."""
    return url in (".", "..", "~") or url.startswith(("/", "./", "../", "~/"))


def _git_url(value: str, info: ValidationInfo) -> str:
    """Refuse what is not https, ssh or (in local mode) a path, and every form of credential in it."""
    if re.search(r"[\x00-\x1f\x7f]", value) or value.startswith("-"):
        raise refusal(f"the URL starts with a dash or holds a control character: want {_FORMS}")
    if is_local_path(value):
        if not (info.context or {}).get(LOCAL):
            raise refusal(f"{shown(value)} is a local path, which only local mode can read: want {_FORMS}")
        return value
    if re.search(r"\s", value):
        raise refusal(f"the URL has a blank in it: want {_FORMS}")
    if match := _SCHEME.match(value):
        _check_scheme_url(match[1].lower(), value)
        return value
    if match := _SCP.fullmatch(value):
        if ":" in match["user"]:
            raise refusal(f"the URL holds a password: {_CREDENTIALS}")
        return value
    host_first = re.match(r"^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+/", value)
    if host_first:
        raise refusal(f"{shown(value)} has no scheme: write https://{value}")
    hint = f"; write ./{value} for a folder" if (info.context or {}).get(LOCAL) and "@" not in value else ""
    raise refusal(f"the URL has a form that is not taken: want {_FORMS}; {_CREDENTIALS}{hint}")


def _check_scheme_url(scheme: str, value: str) -> None:
    if scheme not in ("https", "ssh"):
        raise refusal(f"got the scheme {scheme}://, want {_FORMS}; {_CREDENTIALS}")
    try:
        parts = urlsplit(value)
        host, user, password, _ = parts.hostname, parts.username, parts.password, parts.port
    except ValueError as error:
        raise refusal(f"the URL cannot be read: {error}") from error
    if password is not None:
        raise refusal(f"the URL holds a password: {_CREDENTIALS}")
    if scheme == "https" and user is not None:
        # Tokens are given as user names as well, and this one would end up in logs and in `kubectl get`.
        raise refusal(f"the URL holds a user name or a token: {_CREDENTIALS}")
    if not host or not _HOST.fullmatch(host) or (user is not None and user.startswith("-")):
        raise refusal("the URL names no host that can be used")
    if parts.path in ("", "/"):
        raise refusal("the URL names no repository after the host")
    if parts.query or parts.fragment:
        raise refusal(f'the URL goes on after the repository\'s path ("?" or "#"): {_CREDENTIALS}')


_REF_REFUSED = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|(^|/)\.|\.lock(/|$)|^[-/]|[/.]$|^@$")


def _git_ref(value: str) -> str:
    """The rules of `git check-ref-format`; a leading dash is refused too, because git would take it for an option."""
    if match := _REF_REFUSED.search(value):
        what = f" ({shown(match[0])})" if match[0].strip() else ""
        raise refusal(f"{shown(value)} is not a name that git takes{what}")
    return value


def _editable(value: str) -> str:
    bare = re.sub(r"^(\./+)+", "", value)
    if bare == "prepare.py":
        raise refusal("prepare.py belongs to the judge and cannot be edited: take it off the list")
    if bare == ".git" or bare.startswith(".git/"):
        raise refusal(f"{shown(value)} is git's own: take it off the list")
    return relative_path(value)


GitURL = Annotated[
    str,
    Field(min_length=1, max_length=1024),
    AfterValidator(_git_url),
    Want(f"a git URL of at most 1024 characters: {_FORMS}"),
]
GitRef = Annotated[
    str,
    Field(min_length=1, max_length=200),
    AfterValidator(_git_ref),
    Want("a branch, tag or commit of at most 200 characters"),
]
EditablePath = Annotated[
    str,
    Field(min_length=1, max_length=255),
    AfterValidator(_editable),
    Want("a relative path of at most 255 characters"),
]


class SourceSpec(Model):
    """The git repository to start from, and the branch that accepted edits go to."""

    url: Annotated[GitURL | None, Field(examples=["https://git.lab.example/ml/autoresearch.git"])] = None
    """The git repository to start from: https://, ssh:// or git@host:path. Local mode also takes a folder, which
    starts with `/`, `./`, `../` (from the folder the command runs in) or `~/`. Unset: the run starts from `template`.
    Immutable."""
    template: Annotated[
        Literal["tiny-gpt"] | None,
        Field(examples=[DEFAULT_TEMPLATE]),
        Want("the name of a built-in template: tiny-gpt"),
    ] = None
    """The built-in source to start from, when there is no `url`. Unset, and no `url`: tiny-gpt, because it trains on
    every machine. Immutable."""
    ref: GitRef = "HEAD"
    """The branch, tag or commit to start from. Default HEAD, the repository's own default branch. Immutable."""
    branch: Annotated[GitRef | None, Field(examples=["autoresearch/h100"])] = None
    """The branch that accepted edits are pushed to; never the ref, so that your branch is not touched. Unset:
    autoresearch/<namespace>-<name>. Immutable."""
    secret_name: Annotated[ObjectName | None, Field(examples=["lab-git"])] = None
    """The Secret with the credentials for `url`: type kubernetes.io/basic-auth, or kubernetes.io/ssh-auth with
    known_hosts. Unset: none are sent. Local mode uses your own git credentials instead. Mutable."""
    editable_paths: Annotated[
        tuple[EditablePath, ...],
        Field(min_length=1, max_length=64),
        ListOnly,
        Want("a list of 1 to 64 paths such as [train.py]"),
    ] = ("train.py",)
    """The files that a candidate may change, from the top of the repository. Default [train.py], because one file
    keeps edits comparable. `prepare.py` is the judge's and is refused. Immutable."""
    program: RelativePath = "program.md"
    """The file with your instructions to the proposer, from the top of the repository. Default program.md. A
    repository without it uses the built-in page. Mutable."""

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        refusals = Refusals()
        if self.url is not None and self.template is not None:
            refusals.add(("template",), "is set beside url: keep one of them")
        if self.branch is not None and self.branch.startswith("refs/"):
            refusals.add(("branch",), f"{shown(self.branch)} is a full ref: write the branch's name alone")
        elif self.branch is not None and self.branch in (self.ref, self.ref.removeprefix("refs/heads/")):
            refusals.add(
                ("branch",), "is the same as ref: accepted edits go to a branch of their own; choose another name"
            )
        if self.template_name is not None and self.ref != "HEAD":
            refusals.add(("ref",), "is set without url: a built-in template has one version; remove it, or set url")
        if len(set(self.editable_paths)) < len(self.editable_paths):
            refusals.add(("editablePaths",), "names a file twice: keep each once")
        refusals.raise_any("SourceSpec")
        return self

    @property
    def template_name(self) -> str | None:
        """The built-in template to start from, or None when the run starts from `url`."""
        return None if self.url is not None else (self.template or DEFAULT_TEMPLATE)

    @property
    def is_local(self) -> bool:
        """Whether `url` is a folder of this machine."""
        return self.url is not None and is_local_path(self.url)
