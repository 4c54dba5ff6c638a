#!/usr/bin/env python3
"""Builds the operator's and the trainer's image with buildah, podman or docker, whichever is here.

    make images REGISTRY=registry.example.com/team TAG=0.1.0 PUSH=1

builds both and pushes them. Everything a person needs to know is in `scripts/images --help`. A last line of JSON names
each image with its digest (of the image's configuration, which names its content; a registry adds its manifest's).

A site's own package index and certificate authority are handed to the steps that download, as build secrets that no
layer keeps: the files that SSL_CERT_FILE, PIP_CONFIG_FILE and UV_CONFIG_FILE name (or their usual places), and the
index settings of this shell's environment.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("operator", "trainer")
ENGINES = ("buildah", "podman", "docker")
# Only what the Dockerfiles assume of any base: Python 3.11 and certificates. They install the rest themselves.
BASE_SUITE = "bookworm"
BASE_PACKAGES = ("ca-certificates", "python3", "python3-venv")
BASE_IMAGE = "localhost/autoresearch-base"
# Raised when what is done to the unpacked packages changes, so that nobody keeps an old base.
BASE_RECIPE = 1
PRIVATE_MOUNTS = ("unshare", "--mount", "--fork", "--kill-child=SIGKILL")
LEFT_OUT = ("var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*", "usr/share/doc/*", "usr/share/man/*")
INDEX_VARIABLES = re.compile(
    r"(PIP_(EXTRA_)?INDEX_URL|UV_(DEFAULT_|EXTRA_)?INDEX(_URL)?|https?_proxy|no_proxy)", re.IGNORECASE
)


class Refused(Exception):
    """Why nothing can be built: one sentence for the person, with the way out."""


@dataclass(frozen=True)
class Engine:
    """A program that builds images from a Dockerfile."""

    name: str
    program: str
    store: Path | None

    def command(self, *arguments: str) -> list[str]:
        """The command line of one call. store: buildah's own storage when it shall not be the user's."""
        if self.name != "buildah":
            return [self.program, *arguments]
        place = ["--root", str(self.store / "root"), "--runroot", str(self.store / "run")] if self.store else []
        # Each step mounts its layers. As root in a namespace of its own: a build that is killed leaves no mounts.
        private = PRIVATE_MOUNTS if os.geteuid() == 0 else ()
        return [
            *private,
            self.program,
            "--storage-driver",
            os.environ.get("STORAGE_DRIVER", "overlay"),
            *place,
            *arguments,
        ]

    def run(self, *arguments: str) -> str:
        """Standard output of one call; Refused with what it said when it fails."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Refused(f"{self.name} {arguments[0]} failed: {done.stderr.strip()[-2000:]}")
        return done.stdout.strip()

    def build(
        self, tag: str, dockerfile: Path, context: Path, arguments: Mapping[str, str], secrets: Mapping[str, Path]
    ) -> None:
        """Builds one image; its output goes to standard error, where a person follows it."""
        command = ["build", "--file", str(dockerfile), "--tag", tag]
        if self.name == "buildah":
            # Layers: a change of our code rebuilds the last ones only. chroot: no user namespace and no runc needed.
            isolation = os.environ.get("BUILDAH_ISOLATION", "chroot")
            command += ["--layers", "--format", "oci", "--isolation", isolation]
        for name, value in arguments.items():
            command += ["--build-arg", f"{name}={value}"]
        for name, path in secrets.items():
            command += ["--secret", f"id={name},src={path}"]
        environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
        done = subprocess.run([*self.command(*command), str(context)], stdout=sys.stderr, env=environment, check=False)
        if done.returncode != 0:
            raise Refused(f"{self.name} could not build {dockerfile.name}: its last lines above say why")

    def digest(self, tag: str) -> str:
        """sha256 of the image's configuration."""
        if self.name == "buildah":
            found = self.run("inspect", "--type", "image", "--format", "{{.FromImageID}}", tag)
        else:
            found = self.run("image", "inspect", "--format", "{{.Id}}", tag)
        return found if found.startswith("sha256:") else f"sha256:{found}"

    def save(self, tag: str, target: Path) -> None:
        """Writes the image as one tar for `ctr images import` and `docker load`: uncompressed, it is read once.

        A tar of the same image by the same name that is there already stays: writing gigabytes again would tell nobody
        anything.
        """
        if target.is_file() and _saved(target) == (self.digest(tag), [tag]):
            return
        # Under another name until it is whole: whoever reads the old one meanwhile reads all of it.
        partial = target.with_suffix(f".{os.getpid()}")
        if self.name == "buildah":
            self.run("push", "--disable-compression", tag, f"docker-archive:{partial}:{tag}")
        else:
            self.run("save", "--output", str(partial), tag)
        partial.rename(target)

    def has(self, tag: str) -> bool:
        """Whether the engine knows the image."""
        asked = ("inspect", "--type", "image", tag) if self.name == "buildah" else ("image", "inspect", tag)
        return subprocess.run(self.command(*asked), capture_output=True, check=False).returncode == 0


def _saved(archive: Path) -> tuple[str, list[str]] | None:
    """Digest and names of the image in a tar; None: it cannot be read."""
    try:
        with tarfile.open(archive) as opened:
            manifest = opened.extractfile("manifest.json")
            (image,) = json.load(manifest) if manifest else ()
            return "sha256:" + image["Config"].removesuffix(".json"), image["RepoTags"]
    except (tarfile.TarError, KeyError, ValueError, TypeError, OSError):
        return None


def find_engine(wanted: str | None, store: Path | None) -> Engine:
    """The first engine that answers; Refused when none does."""
    if wanted and wanted not in ENGINES:
        raise Refused(f"--engine {wanted} is not one of {', '.join(ENGINES)}")
    for name in (wanted,) if wanted else ENGINES:
        program = shutil.which(name)
        # A docker command without its daemon is common; `info` tells.
        if program and subprocess.run([program, "info"], capture_output=True, check=False).returncode == 0:
            return Engine(name, program, store)
    raise Refused(
        f"none of {', '.join((wanted,) if wanted else ENGINES)} works here: install one of them "
        "(Debian: apt install buildah), or start docker's daemon"
    )


@contextmanager
def site_secrets() -> Iterator[dict[str, Path]]:
    """This machine's index and certificate settings as files for `--secret`; an empty file where there is none."""
    home = Path.home()
    usual: dict[str, list[str | Path | None]] = {
        "ca.crt": [os.environ.get("SSL_CERT_FILE")],
        "pip.conf": [
            os.environ.get("PIP_CONFIG_FILE"),
            *(home / ".config/pip/pip.conf", home / ".pip/pip.conf", "/etc/pip.conf"),
        ],
        "uv.toml": [os.environ.get("UV_CONFIG_FILE"), home / ".config/uv/uv.toml", "/etc/uv/uv.toml"],
    }
    with tempfile.TemporaryDirectory(prefix="autoresearch-build-") as folder:
        found: dict[str, Path] = {}
        for name, places in usual.items():
            text = next((Path(place).read_text() for place in places if place and Path(place).is_file()), "")
            if name == "pip.conf":
                # A path on this machine means nothing inside the build: pip reads the bundle from PIP_CERT there.
                text = re.sub(r"(?m)^\s*(cert|cache-dir|find-links)\s*=.*\n?", "", text)
            found[name] = Path(folder, name)
            found[name].write_text(text)
        lines = [
            f"{name}={shlex.quote(value)}\n" for name, value in os.environ.items() if INDEX_VARIABLES.fullmatch(name)
        ]
        found["environment"] = Path(folder, "environment")
        found["environment"].write_text("".join(lines))
        yield found


def local_base(engine: Engine) -> str:
    """A small Debian with Python made from packages, for a machine that reaches no registry of images; its name."""
    key = hashlib.sha256(json.dumps([BASE_RECIPE, BASE_SUITE, BASE_PACKAGES]).encode()).hexdigest()[:12]
    name = f"{BASE_IMAGE}:{key}"
    if engine.has(name):
        return name
    cache = Path(os.environ.get("AUTORESEARCH_CACHE") or Path.home() / ".cache" / "autoresearch") / "images"
    packed = cache / f"base-{key}.tar"
    if not packed.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        _debootstrap(packed)
    with tempfile.TemporaryDirectory(prefix="autoresearch-base-") as folder:
        context = Path(folder)
        shutil.copyfile(packed, context / "base.tar")
        (context / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
        engine.build(name, context / "Dockerfile", context, {}, {})
    return name


def _debootstrap(packed: Path) -> None:
    if not shutil.which("debootstrap") or os.geteuid() != 0:
        raise Refused("--local-base needs root and debootstrap (Debian: apt install debootstrap)")
    say(f"Making a base image from Debian packages ({', '.join(BASE_PACKAGES)}): about two minutes, once …")
    # Without one, debootstrap takes its own.
    mirror = [os.environ["DEBIAN_MIRROR"]] if os.environ.get("DEBIAN_MIRROR") else []
    with tempfile.TemporaryDirectory(prefix="autoresearch-debian-") as folder:
        root = Path(folder, "root")
        include = f"--include={','.join(BASE_PACKAGES)}"
        # A mount namespace of its own: /proc and whatever else it mounts in there is gone when it ends, even if killed.
        command = [*PRIVATE_MOUNTS, "debootstrap", "--variant=minbase", include, BASE_SUITE, str(root), *mirror]
        done = subprocess.run(command, stdout=sys.stderr, check=False)
        if done.returncode != 0:
            raise Refused(
                "debootstrap could not make a base: its last lines above say why (DEBIAN_MIRROR names a mirror)"
            )
        # debootstrap copies these two from this machine.
        for private in ("etc/resolv.conf", "etc/hostname"):
            root.joinpath(private).unlink(missing_ok=True)
        excluded = [f"--exclude=./{name}" for name in LEFT_OUT]
        partial = packed.with_suffix(".partial")
        subprocess.run(["tar", "-C", str(root), "--numeric-owner", *excluded, "-cf", str(partial), "."], check=True)
        partial.rename(packed)


def versions() -> dict[str, str]:
    """What the labels say: the distribution's version and the commit, with + when files differ from it."""
    found = re.search(r'(?m)^version = "([^"]+)"', (ROOT / "operator/pyproject.toml").read_text())
    git = ["git", "-C", str(ROOT)]
    commit, changed = (
        subprocess.run([*git, *asked], capture_output=True, text=True, check=False).stdout.strip()
        for asked in (("rev-parse", "HEAD"), ("status", "--porcelain"))
    )
    return {"VERSION": found[1] if found else "0.0.0", "REVISION": (commit or "unknown") + ("+" if changed else "")}


def say(line: str) -> None:
    """One line for the person; standard output is for the result."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Builds what was asked for; 0, or 1 with a sentence."""
    options = _parser().parse_args(arguments)
    # As an exception, so that the build under way is ended and the secrets' folder deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    prefix = options.registry.rstrip("/") + "/" if options.registry else "localhost/"
    built = {}
    try:
        engine = find_engine(options.engine, options.store)
        if engine.store and engine.name == "buildah":
            engine.store.mkdir(parents=True, exist_ok=True)
            # One build at a time, so that every container in there is a killed build's; held until this process ends.
            fcntl.flock(os.open(engine.store, os.O_RDONLY), fcntl.LOCK_EX)
            engine.run("rm", "--all")
        base = local_base(engine) if options.local_base else options.base_image
        with site_secrets() as secrets:
            for name in options.only or NAMES:
                started = time.monotonic()
                tag = f"{prefix}autoresearch-{name}:{options.tag}"
                given = {**versions(), **({"BASE_IMAGE": base} if base else {})}
                if name == "trainer":
                    given["VARIANT"] = options.variant
                engine.build(tag, ROOT / f"Dockerfile.{name}", ROOT, given, secrets)
                built[name] = {"image": tag, "digest": engine.digest(tag)}
                if options.save:
                    options.save.mkdir(parents=True, exist_ok=True)
                    engine.save(tag, options.save / f"{name}.tar")
                    built[name]["archive"] = str(options.save / f"{name}.tar")
                if options.push:
                    engine.run("push", tag)
                say(f"{tag} {built[name]['digest']} in {time.monotonic() - started:.0f} s")
        if options.prune and engine.name == "buildah":
            engine.run("rmi", "--prune")
    except Refused as refused:
        say(f"images: {refused}")
        return 1
    print(json.dumps(built))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/images", description="Builds both images of the project.")
    parser.add_argument("--registry", default="", help="where the images will live, like registry.example.com/team")
    parser.add_argument("--tag", default="dev", help="tag of both (default: dev)")
    parser.add_argument("--push", action="store_true", help="push what was built to the registry")
    parser.add_argument("--only", action="append", choices=NAMES, help="build this one; may be given twice")
    parser.add_argument(
        "--variant",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu: the trainer without CUDA's libraries, a quarter of the size",
    )
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--base-image", help="any image with Python 3.11 or newer (default: python:3.12-slim)")
    base.add_argument("--local-base", action="store_true", help="build on a Debian made from packages: no registry")
    parser.add_argument("--save", type=Path, metavar="DIR", help="also write DIR/operator.tar and DIR/trainer.tar")
    parser.add_argument("--engine", help=f"one of {', '.join(ENGINES)} (default: the first that works)")
    parser.add_argument("--prune", action="store_true", help="afterwards delete layers that no image uses (buildah)")
    parser.add_argument("--store", type=Path, metavar="DIR", help="buildah's storage, when it shall not be the user's")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
