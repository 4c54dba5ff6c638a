"""The commands. Each is a guard, one call, and an exit code: 0 done, 1 it failed, 2 the input is wrong, 130 stopped."""

from __future__ import annotations

import json
import os
import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from autoresearch_operator.settings import Settings

app = typer.Typer(
    name="autoresearch",
    help="Autonomous ML research with scores that can be believed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Workdir = Annotated[
    Path | None, typer.Option("--workdir", "-w", help="The run's folder. Default: the newest one under runs/.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Kubeconfig = Annotated[Path | None, typer.Option(help="Kubeconfig file. Default: as kubectl finds it.")]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig. Default: its current one.")]


_PREPARE_HELP = """
onto a claim of a cluster, by a Job (no --text, no --out):
  --claim NAME          the PersistentVolumeClaim; train/ and val/ are written at its top
  --namespace, -n NS    its namespace (default: default)
  --apply               create the Job and its NetworkPolicy; without it they are printed
  --trainer-image, --proxy, --kubeconfig, --context"""


class Refusal(Exception):
    """The input is wrong: one sentence, exit code 2."""


@contextmanager
def _sentences() -> Iterator[None]:
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
def _refusals() -> Iterator[None]:
    """The part of `_sentences` that needs no imports."""
    try:
        yield
    except Refusal as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


@contextmanager
def _cluster() -> Iterator[None]:
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


def _workdir(given: Path | None) -> Path:
    if given is not None:
        return given
    runs = sorted(Path("runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    if not runs:
        raise Refusal("there is no run under runs/ here: start one with `autoresearch run FILE`, or give --workdir DIR")
    return runs[0].parent


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="A ResearchRun, as `kubectl apply` takes it.")],
    workdir: Annotated[
        Path | None,
        typer.Option("--workdir", "-w", help="The run's folder; resumed when it exists. Default: runs/NAME."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the whole run. Default: 0, or the resumed run's.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="A data set made by `autoresearch prepare`. Default: the demo corpus.")
    ] = None,
    as_json: Json = False,
    plain: Annotated[bool, typer.Option("--plain", help="Print lines instead of a live picture.")] = False,
) -> None:
    """Carry out a ResearchRun on this machine. Ctrl-C stops it cleanly; the same command resumes it."""
    from autoresearch_operator.local import session as sessions
    from autoresearch_operator.local.reporting import write_reports
    from autoresearch_operator.local.view import open_view
    from autoresearch_operator.observe.tables import headline

    settings = Settings()
    with _sentences():
        session = sessions.start_or_resume(file, workdir, seed=seed, data=data, settings=settings)
        with session, open_view(mode="json" if as_json else "plain" if plain else "auto") as view:
            for note in session.store.notes:
                view.note(note)
            runner = sessions.make_runner(session, view, settings)

            def interrupt(_signal: int, _frame: object) -> None:
                urgency = runner.request_stop()
                view.note(
                    "letting the running trials finish, then stopping; press Ctrl-C again to stop now"
                    if urgency == 1
                    else "stopping now; the running trials are measured again after a resume"
                )

            signal.signal(signal.SIGINT, interrupt)
            signal.signal(signal.SIGTERM, interrupt)
            outcome = runner.run()
            paths = write_reports(session)
            view.finished(outcome.plan, paths, stopped=outcome.stopped)
            closing = [*headline(sessions.summary_of(session)), *_next_commands(session.workdir, session.run.branch)]
        if not as_json:
            typer.echo("\n".join(closing))
        if outcome.stopped:
            raise typer.Exit(130)
        if outcome.plan.failed is not None:
            raise typer.Exit(1)


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("researchrun.yaml"),
    name: Annotated[str, typer.Option(help="The run's name.")] = "first",
) -> None:
    """Write a commented ResearchRun to start from: for a GPU where this machine has one, else for its CPU."""
    from autoresearch_operator.api.template import commented_run
    from autoresearch_operator.local.machine import gpu_names

    with _sentences():
        try:
            with file.open("x", encoding="utf-8") as out:
                out.write(commented_run(name, gpus=min(1, len(gpu_names()))))
        except FileExistsError:
            raise Refusal(f"{file} exists: choose another name, nothing was written") from None
        typer.echo(f"{file} is written. Next: autoresearch run {shlex.quote(str(file))}")


@app.command()
def results(
    workdir: Workdir = None,
    as_json: Json = False,
    tsv: Annotated[bool, typer.Option("--tsv", help="Print tab-separated values, upstream's columns first.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Print every row, however many.")] = False,
) -> None:
    """Print what was tried and what became of it."""
    from autoresearch_operator.local.answers import facts_now, keep_results, kept_results
    from autoresearch_operator.observe.resultsview import results_layout

    if not (as_json or tsv or everything):
        # Before anything heavy is imported: a big run that has not changed is shown at once.
        with _refusals():
            view = kept_results(_workdir(workdir))
        if view is not None:
            _print(lambda width: results_layout(view, width=width))
            return
    from autoresearch_operator.local import session as sessions
    from autoresearch_operator.observe import tables

    with _sentences(), sessions.read(_workdir(workdir)) as session:
        made_from = facts_now(session.workdir)
        summary = sessions.summary_of(session)
        if as_json:
            _print_json(tables.results_json(summary))
        elif tsv:
            typer.echo(tables.results_tsv(summary), nl=False)
        elif everything:
            _print(lambda width: tables.results_text(summary, width=width, limit=None))
        else:
            view = tables.results_view(summary)
            with suppress(OSError):  # a folder that cannot be written to can still be read
                keep_results(session.workdir, view, made_from)
            _print(lambda width: results_layout(view, width=width))


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="The experiment's number.")],
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Print one experiment: its diff, its trials, why it got its verdict, and how to measure it again."""
    from autoresearch_operator.local import session as sessions
    from autoresearch_operator.observe import tables

    folder = _workdir_or_exit(workdir)
    with _sentences(), sessions.read(folder) as session:
        summary = sessions.summary_of(session)
        if summary.row(number) is None:
            raise Refusal(f"experiment {number} is not in {folder}: it has 0 to {len(summary.rows) - 1}")
        experiments = session.store.load().experiments
        diff = session.sources.diff(experiments[number], experiments)
        if as_json:
            rows = tables.results_json(summary)["experiments"]
            _print_json({**rows[number], "diff": diff})
            return
        reproduce = f"autoresearch rerun {number} --workdir {shlex.quote(str(folder))}"
        _print(lambda _width: tables.show_text(summary, number, diff=diff, reproduce=reproduce))


@app.command()
def report(workdir: Workdir = None, as_json: Json = False) -> None:
    """Write report.html, progress.png and results.tsv into the run's folder."""
    from autoresearch_operator.local import session as sessions
    from autoresearch_operator.local.reporting import write_reports

    with _sentences(), sessions.read(_workdir(workdir)) as session:
        paths = write_reports(session)
        if as_json:
            _print_json({"files": [str(path) for path in paths]})
        else:
            for path in paths:
                typer.echo(path)


@app.command()
def rerun(
    number: Annotated[int, typer.Argument(help="The experiment's number.")],
    workdir: Workdir = None,
    seed: Annotated[
        int | None, typer.Option(help="Trial seed, as `show` lists it. Default: the first trial's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure an experiment again, outside the record. Under a budget of steps the score is the same to the bit."""
    from autoresearch_operator.local import session as sessions
    from autoresearch_operator.local.rerun import measure_again

    with _sentences(), sessions.read(_workdir(workdir)) as session:
        again = measure_again(session, number, seed, Settings())
        if as_json:
            _print_json({"recorded": again.recorded, "measured": again.measured, "result": again.result})
        else:
            typer.echo(again.sentence)
        if again.measured is None:
            raise typer.Exit(1)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def prepare(
    context: typer.Context,
    claim: Annotated[str | None, typer.Option(help="Prepare onto this PersistentVolumeClaim, by a Job.")] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="The claim's namespace.")] = "default",
    apply: Annotated[bool, typer.Option("--apply", help="Create the Job. Default: print it.")] = False,
    trainer_image: Annotated[str | None, typer.Option(help="Trainer image. Default: the chart's.")] = None,
    proxy: Annotated[str | None, typer.Option(help="HTTP proxy of the Job, such as http://proxy:3128.")] = None,
    kubeconfig: Kubeconfig = None,
    kube_context: Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")] = None,
) -> None:
    """Prepare a data set: the demo corpus, TinyStories, climbmix or your own text (--help lists the options)."""
    with _sentences():
        if claim is None:
            trainer = Settings().trainer
            code = subprocess.run([*trainer, "prepare", *context.args], check=False).returncode
            if {"-h", "--help"} & set(context.args):
                typer.echo(_PREPARE_HELP)
            raise typer.Exit(code)
        with _cluster():
            from autoresearch_operator.cluster import commands
            from autoresearch_operator.manifests.prepare import PrepareRefused

            try:
                bodies = commands.preparation(namespace, claim, context.args, image=trainer_image, proxy=proxy)
            except PrepareRefused as error:
                raise Refusal(str(error)) from None
            if not apply:
                typer.echo(commands.as_yaml(bodies), nl=False)
                return
            said = commands.apply(commands.Way(kubeconfig, kube_context), bodies)
        name = bodies[-1]["metadata"]["name"]
        typer.echo("\n".join([*said, f"watch it: kubectl logs -n {namespace} -f job/{name}"]))


@app.command()
def render(
    file: Annotated[Path, typer.Argument(help="A ResearchRun, as `kubectl apply` takes it.")],
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Namespace. Default: the file's.")] = None,
    trainer_image: Annotated[
        str | None,
        typer.Option(help="Trainer image of the installation. Default: AUTORESEARCH_TRAINER_IMAGE, or the chart's."),
    ] = None,
) -> None:
    """Print as YAML what a run would put into a cluster for its first trial. Nothing is sent anywhere."""
    from autoresearch_operator.render import RenderError
    from autoresearch_operator.render import render as rendered

    with _sentences():
        try:
            typer.echo(rendered(file, namespace=namespace, image=trainer_image), nl=False)
        except RenderError as error:
            raise Refusal(str(error)) from None


@app.command()
def doctor(
    workdir: Workdir = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Look at a cluster instead, for runs in this namespace.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="With --namespace: check this ResearchRun, not those there.")
    ] = None,
    canary: Annotated[
        bool, typer.Option(help="With --namespace: send two small pods that try whether NetworkPolicies hold.")
    ] = True,
    canary_timeout: Annotated[float, typer.Option(min=1, help="Seconds that they may take.")] = 180.0,
    trainer_image: Annotated[str | None, typer.Option(help="Trainer image. Default: the operator's.")] = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    as_json: Json = False,
) -> None:
    """Look at this machine, or with --namespace at a cluster: all that a run needs, before it takes a GPU."""
    from autoresearch_operator.observe.findings import exit_code, findings_json, findings_table

    with _sentences():
        if namespace is None:
            from autoresearch_operator.local import doctor as doctors

            if file or kubeconfig or context:
                raise Refusal("--file, --kubeconfig and --context go with --namespace: they are about a cluster")
            findings = doctors.diagnose(workdir or Path(), Settings())
        else:
            with _cluster():
                from autoresearch_operator.cluster import commands

                findings = commands.diagnose(
                    commands.Way(kubeconfig, context),
                    namespace,
                    file=file,
                    image=trainer_image,
                    canary=canary,
                    canary_seconds=canary_timeout,
                    say=lambda sentence: typer.echo(f"{sentence} …", err=True),
                )
        if as_json:
            _print_json(findings_json(findings))
        else:
            _print(lambda width: findings_table(findings, width=width))
        if code := exit_code(findings):
            raise typer.Exit(code)


@app.command()
def operator() -> None:
    """Run the operator in a cluster. Its settings are AUTORESEARCH_* variables: docs/reference/settings.md."""
    with _sentences(), _cluster():
        from autoresearch_operator.handlers.command import serve

        raise typer.Exit(serve())


@app.command()
def version(as_json: Json = False) -> None:
    """Print versions of what decides a score."""
    found = {"python": platform.python_version()}
    for name in ("autoresearch-operator", "autoresearch-trainer", "torch", "optuna"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    if as_json:
        _print_json(found)
    else:
        for name, value in found.items():
            typer.echo(f"{name} {value}")


def _next_commands(workdir: Path, branch: str) -> list[str]:
    folder = shlex.quote(os.path.relpath(workdir))
    return [
        f"every candidate:    autoresearch results --workdir {folder}",
        f"the accepted edits: git -C {folder}/repo.git log -p {branch}",
    ]


def _workdir_or_exit(given: Path | None) -> Path:
    with _sentences():
        return _workdir(given)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def _print(build: Any) -> None:
    """Prints what `build(width)` gives, as wide as the terminal."""
    from rich.console import Console

    console = Console(soft_wrap=False)
    console.print(build(console.width))


def main() -> None:
    """Entry point of the `autoresearch` command."""
    try:
        app()
    except BrokenPipeError:
        # `autoresearch results | head`: the reader has what it wanted.
        sys.stderr.close()
        sys.exit(0)
