"""Settings of the operator in a cluster. Each: unit, default and why.

Apart from `settings`, because reading pydantic in is a third of what `autoresearch --help` would take.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

PREFIX: Final = "AUTORESEARCH_"
"""Every setting of the operator is the environment variable of its name in capitals, with this before it."""

_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class InvalidSettings(ValueError):
    """One sentence a line: which variable, what it holds, what is wanted."""


def _own_namespace() -> str:
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


def _split(value: object) -> object:
    return tuple(part for part in re.split(r"[,\s]+", value) if part) if isinstance(value, str) else value


_Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
_Namespace = Annotated[str, Field(pattern=r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$", max_length=63)]
_Subdomain = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
_Port = Annotated[int, Field(ge=0, le=65535)]


class OperatorSettings(BaseModel):
    """Settings of the operator in a cluster, from the environment. The chart sets them; nobody should need to.

    Kubernetes' own variables are honoured beside them: `KUBECONFIG` names the way into a cluster from outside it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    namespaces: Annotated[tuple[_Namespace, ...], BeforeValidator(_split)] = ()
    """Namespaces whose ResearchRuns are served, separated by commas; `*` is all of the cluster. Default: the one that
    the operator runs in, so that a Role suffices and a lab can try it without a cluster's administrator."""

    trainer_image: Annotated[str, Field(max_length=500)] = ""
    """Image of trials whose run names none. The chart sets the one that it was released with. Default: none, and then
    a run without `trainer.image` says so in its Ready condition."""

    trainer_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When a node pulls `trainer_image`. Default: IfNotPresent, as it is 5 GB; a tag that moved meanwhile shows as
    another image ID, and such a trial is not scored."""

    trainer_pull_secrets: Annotated[tuple[_Subdomain, ...], BeforeValidator(_split)] = ()
    """Names of Secrets to pull `trainer_image` with, separated by commas; they have to be in the run's namespace.
    Default: none."""

    trainer_priority_class: Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", max_length=253)] = ""
    """PriorityClass of trials whose tier names none. Default: none, the cluster's own default."""

    data_folder: Path = Path("/var/lib/autoresearch")
    """Folder of the runs' repositories, on a volume that outlives the pod: the record of every run is there. Default:
    where the chart mounts that volume."""

    lease_namespace: _Name = Field(default_factory=_own_namespace)
    """Namespace of the Lease. Default: the one that the operator runs in."""

    lease_name: _Subdomain = "autoresearch-operator"
    """Name of the Lease. Of the operators that share one, a single one works. Default: one name, so that a second
    installation in a namespace waits instead of paying twice."""

    lease_seconds: Annotated[float, Field(ge=1, le=300)] = 15.0
    """Seconds without renewal after which another operator may take the Lease. Default: 15, as Kubernetes' own
    controllers have it. A stopped operator gives it up at once; only a lost node makes the next one wait so long."""

    identity: Annotated[str, Field(min_length=1, max_length=253)] = Field(default_factory=socket.gethostname)
    """Who holds the Lease. Default: the host's name, which is the pod's: a container that crashed and was started
    again in the same pod holds it still and need not wait."""

    http_port: _Port = 8080
    """Port of /healthz, /readyz and /metrics. Default: 8080, which needs no privilege."""

    git_port: _Port = 8081
    """Port of the read-only git server (`git clone http://…/NAMESPACE/NAME.git`). Apart from the other one, so that a
    NetworkPolicy can open it to people and keep /metrics to Prometheus."""

    git_base_url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$", max_length=500)] = "http://localhost:8081"
    """What people put before `/NAMESPACE/NAME.git` to clone, as a run's status shows it. Default: what they see after
    `kubectl port-forward`, because no other address is known to work from where they are."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe lines that are logged. Default: info: what was decided, written and what failed; tracebacks of
    passes that are tried again are debug."""

    log_format: Literal["json", "text"] = "json"
    """`json`: one object a line, for collectors; `text`: for a terminal. Default: json."""

    nodes_readable: bool = False
    """Whether the operator's role may list nodes (a ClusterRole of the chart). With it a tier that fits no node is
    told so before anything is queued. Default: no, as a namespaced installation cannot."""

    resync_seconds: Annotated[float, Field(ge=1, le=86400)] = 300.0
    """Seconds between two comparisons of what the watches told with what the API server has, after which every run
    gets a pass. Default: 300: watches do the work in milliseconds, this only bounds what a lost event can cost, and
    lists of metadata are what it costs."""

    workers: Annotated[int, Field(ge=1, le=64)] = 4
    """Runs that are looked at at the same time. Default: 4: a pass takes some milliseconds of one core and then waits
    for the API server or git; more only share the same core."""

    status_seconds: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """Seconds at least between two writes of one run's status while only its counts change. Default: 10: people read
    it, and each write is an etcd transaction and an event for every watcher. A new condition is written at once."""

    pushes_per_minute: Annotated[float, Field(gt=0, le=600)] = 6.0
    """Pushes a minute to one remote repository at most; accepted edits and records wait for each other and go in one.
    Default: 6, well under what public git hosts allow, and no acceptance waits longer than 10 s."""

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.http_port == self.git_port != 0:
            raise ValueError(f"HTTP_PORT and GIT_PORT are both {self.http_port}: give them two ports")
        return self

    @property
    def served(self) -> tuple[str, ...] | None:
        """The namespaces to watch; None: all."""
        if "*" in self.namespaces:
            return None
        return tuple(dict.fromkeys(self.namespaces)) or (_own_namespace(),)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Reads `AUTORESEARCH_*`; an empty variable is an unset one, as charts often leave them.

        Raises:
            InvalidSettings: with a sentence for each variable that is wrong.
        """
        given = os.environ if environ is None else environ
        names = {f"{PREFIX}{name.upper()}": name for name in cls.model_fields}
        values: dict[str, Any] = {
            name: given[variable].strip() for variable, name in names.items() if given.get(variable, "").strip()
        }
        for name in ("log_level", "log_format"):
            if name in values:
                values[name] = values[name].lower()
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InvalidSettings("\n".join(_sentence(cls, dict(details)) for details in error.errors())) from None


def _sentence(model: type[BaseModel], details: Mapping[str, Any]) -> str:
    if not details["loc"]:
        return str(details["msg"]).removeprefix("Value error, ")
    name = str(details["loc"][0])
    wish = str(details["msg"]).removeprefix("Input should be ").removeprefix("String should ").replace("'", "")
    default = model.model_fields[name].get_default(call_default_factory=True, validated_data={})
    hint = f"; unset, it is {_spelled(default)}" if default not in ("", ()) else "; it may be left unset"
    seen = re.sub(r"//[^/@\s]*@", "//***@", _spelled(details["input"]))
    return f'{PREFIX}{name.upper()} is "{seen}", want {_softened(wish)}{hint}'


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _softened(wish: str) -> str:
    wish = re.sub(r", unable to .*$", "", wish[:1].lower() + wish[1:]).removeprefix("a valid ")
    if wish == "boolean":
        return "true or false"
    if wish in ("integer", "number") or wish.startswith(("greater", "less")):
        return "an integer" if wish == "integer" else "a number" if wish == "number" else f"a number {wish}"
    if wish.startswith("match pattern"):
        return "a name of a-z, 0-9 and -" if "a-z0-9" in wish else "a URL such as http://git.example:8081, no password"
    return wish
