"""Builds the cluster's binaries from Go modules, once a machine.

Each folder below tests/cluster/tools is one tool group: a go.mod that pins one version of everything and names its
main packages with `tool` directives. Groups are apart because they pin different versions of the same libraries.
No image registry and no download page is involved: whoever can fetch Go modules can build the cluster, and go.sum
vouches for every byte.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MODULES = Path(__file__).resolve().parent.parent / "cluster" / "tools"
GO_AT_LEAST = (1, 26)

KUBERNETES_VERSION = "v1.36.3"
_COMPONENT_VERSION = "k8s.io/component-base/version"


class ToolsMissing(Exception):
    """A prerequisite is not there; the message is a sentence that says what is missing and how to get it."""


@dataclass(frozen=True)
class Group:
    """One go.mod and the programs that come out of it."""

    name: str
    programs: tuple[str, ...]
    minutes: int
    """Minutes a first build takes on two free cores, for the sentence that announces it."""
    stamps: dict[str, str] = field(default_factory=dict)
    """Linker variables that carry the version: without them clients and Helm's kubeVersion see v0.0.0."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Programs whose package is not called as the program is: {name Go gives: name of the program}."""

    @property
    def folder(self) -> Path:
        return MODULES / self.name

    def link_flags(self) -> str:
        return " ".join(["-s", "-w", *(f"-X {variable}={value}" for variable, value in self.stamps.items())])

    def digest(self) -> str:
        """What the binaries are made from; another digest is another folder in the cache."""
        sha = hashlib.sha256()
        for part in ((self.folder / "go.mod").read_bytes(), (self.folder / "go.sum").read_bytes()):
            sha.update(part)
        sha.update(self.link_flags().encode())
        return sha.hexdigest()[:16]


GROUPS: dict[str, Group] = {
    group.name: group
    for group in (
        Group(
            "kubernetes",
            ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"),
            6,
            stamps={
                f"{_COMPONENT_VERSION}.gitVersion": KUBERNETES_VERSION,
                f"{_COMPONENT_VERSION}.gitMajor": "1",
                f"{_COMPONENT_VERSION}.gitMinor": "36",
            },
        ),
        Group("etcd", ("etcd",), 1, renamed={"server": "etcd"}),
        Group("kwok", ("kwok",), 1),
        Group("kubeconform", ("kubeconform",), 1, stamps={"main.version": "v0.8.0"}),
        Group("helm", ("helm",), 3, stamps={"helm.sh/helm/v4/internal/version.version": "v4.3.1"}),
        Group("coredns", ("coredns",), 2),
        Group("kueue", ("kueue",), 5, stamps={"sigs.k8s.io/kueue/pkg/version.GitVersion": "v0.18.2"}),
        Group(
            "prometheus",
            ("prometheus", "promtool"),
            5,
            stamps={"github.com/prometheus/common/version.Version": "0.315.0"},
        ),
    )
}


def cache() -> Path:
    """Where built tools live: outside every work tree, so that a fresh clone finds what another one built."""
    root = os.environ.get("AUTORESEARCH_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "autoresearch") / "tools"


def bin_folder(group: str) -> Path:
    """The folder of `group`'s programs, whether it is built or not."""
    return cache() / f"{group}-{GROUPS[group].digest()}" / "bin"


def is_built(group: str) -> bool:
    return bin_folder(group).is_dir()


def program(name: str) -> Path:
    """The path of one built program.

    Raises ToolsMissing when its group has not been built, KeyError for a program that no group makes.
    """
    for group in GROUPS.values():
        if name in group.programs:
            if not is_built(group.name):
                raise ToolsMissing(
                    f"{name} is not built yet: run `scripts/cluster build {group.name}` once (about {group.minutes} "
                    "minutes on two free cores; needs Go and a Go module proxy)"
                )
            return bin_folder(group.name) / name
    raise KeyError(f"no tool group builds {name!r}")


def go() -> str:
    """The go command, checked. Raises ToolsMissing when there is none or it is too old."""
    wanted = ".".join(map(str, GO_AT_LEAST))
    found = shutil.which("go")
    if found is None:
        raise ToolsMissing(
            f"Go is missing, and the test cluster is built from Go modules: install Go {wanted} or newer "
            "(https://go.dev/dl), or point AUTORESEARCH_TEST_KUBECONFIG at a cluster you have"
        )
    # Asked inside a group: a newer toolchain that go.mod asks for is then fetched by Go itself, where that is allowed.
    answer = subprocess.run(
        [found, "env", "GOVERSION"],
        cwd=GROUPS["kubernetes"].folder,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    version = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    if version is None or (int(version[1]), int(version[2])) < GO_AT_LEAST:
        seen = answer.stdout.strip() or answer.stderr.strip().splitlines()[-1:]
        raise ToolsMissing(
            f"{found} is not Go {wanted} or newer ({seen}): install one (https://go.dev/dl), or allow Go to fetch it "
            "itself with GOTOOLCHAIN=auto"
        )
    return found


def build(groups: Iterable[str], say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> None:
    """Builds the groups that are not in the cache yet, in the order given.

    Two processes that want the same group: the second waits for the first and finds it built.
    Raises ToolsMissing without a fitting Go, and when a build fails (with the end of what Go said).
    """
    for name in groups:
        if name not in GROUPS:
            raise ToolsMissing(f"there is no tool group {name!r}: choose from {', '.join(GROUPS)}")
        if is_built(name):
            continue
        group = GROUPS[name]
        command = go()
        with _only_one(cache() / f".{name}.lock"):
            if is_built(name):
                continue
            say(f"Building {', '.join(group.programs)} (once a machine, about {group.minutes} min on two free cores) …")
            started = time.monotonic()
            _build(command, group)
            say(f"Built {name} in {time.monotonic() - started:.0f} s into {bin_folder(name)}")


def _build(command: str, group: Group) -> None:
    """One `go build` into a folder beside the final one, then a rename: a killed build leaves nothing half done."""
    final = bin_folder(group.name).parent
    with tempfile.TemporaryDirectory(prefix=f".{group.name}-", dir=cache()) as scratch:
        out = Path(scratch) / "made" / "bin"
        out.mkdir(parents=True)
        built = subprocess.run(
            [command, "build", "-trimpath", "-ldflags", group.link_flags(), "-o", f"{out}{os.sep}", "tool"],
            cwd=group.folder,
            env=_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode != 0:
            tail = "\n".join(built.stderr.strip().splitlines()[-12:])
            raise ToolsMissing(f"building {group.name} failed; Go's last words:\n{tail}")
        for old, new in group.renamed.items():
            (out / old).rename(out / new)
        absent = [name for name in group.programs if not (out / name).is_file()]
        if absent:
            raise ToolsMissing(f"{group.folder / 'go.mod'} did not make {', '.join(absent)}: check its tool directives")
        out.parent.rename(final)


def _environment() -> dict[str, str]:
    """The caller's environment (module proxy, caches) with what decides the bytes of a build held fixed."""
    return os.environ | {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=readonly -buildvcs=false"}


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Held by one process at a time; the kernel lets go of it when that process ends, however it ends."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
