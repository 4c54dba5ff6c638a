"""What all commands share: options, output, and faults told as sentences with an exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

Workdir = Annotated[
    Path | None, typer.Option("--workdir", "-w", help="The run's folder. Default: the newest one under runs/.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Kubeconfig = Annotated[Path | None, typer.Option(help="Kubeconfig file. Default: as kubectl finds it.")]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig. Default: its current one.")]


class Refusal(Exception):
    """The input is wrong: one sentence, exit code 2."""


@contextmanager
def sentences() -> Iterator[None]:
    """Turns every fault that we foresee into a sentence on standard error and an exit code."""
    from autoresearch_operator.api.load import InvalidResource
    from autoresearch_operator.gateways.errors import GitError
    from autoresearch_operator.local.data import DataError
    from autoresearch_operator.local.durable import RunLocked, StorageFull
    from autoresearch_operator.local.machine import MachineError
    from autoresearch_operator.local.session import SessionError
    from autoresearch_operator.local.store import StoreError
    from autoresearch_operator.local.trainer_process import TrainerError

    try:
        yield
    except InvalidResource as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    except (Refusal, SessionError, MachineError, RunLocked) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except (StorageFull, StoreError, GitError, TrainerError, DataError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(f"error: {error.filename or 'the system'}: {error.strerror}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def refusals() -> Iterator[None]:
    """The part of `sentences` that needs no imports."""
    try:
        yield
    except Refusal as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


@contextmanager
def cluster_sentences() -> Iterator[None]:
    """What only commands about a cluster can meet: the client is not installed, no way in, the API server's no."""
    try:
        from autoresearch_operator.gateways.kube_errors import KubeError, LoginError

        try:
            yield
        except LoginError as error:
            raise Refusal(str(error)) from None
        except KubeError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
    except ModuleNotFoundError as error:
        raise Refusal(
            f"{error.name} is not installed: install autoresearch-operator[cluster], which the operator's image has"
        ) from None


def workdir_of(given: Path | None) -> Path:
    if given is not None:
        return given
    runs = sorted(Path("runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    if not runs:
        raise Refusal("there is no run under runs/ here: start one with `autoresearch run FILE`, or give --workdir DIR")
    return runs[0].parent


def workdir_or_exit(given: Path | None) -> Path:
    with sentences():
        return workdir_of(given)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def print_wide(build: Any) -> None:
    """Prints what `build(width)` gives, as wide as the terminal."""
    from rich.console import Console

    console = Console(soft_wrap=False)
    console.print(build(console.width))
