"""Commands about a run on this machine."""

from __future__ import annotations

import os
import shlex
import signal
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from autoresearch_operator.cli.support import (
    Json,
    Refusal,
    Workdir,
    print_json,
    print_wide,
    refusals,
    sentences,
    workdir_of,
    workdir_or_exit,
)
from autoresearch_operator.settings import Settings


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
    with sentences():
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


def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("researchrun.yaml"),
    name: Annotated[str, typer.Option(help="The run's name.")] = "first",
) -> None:
    """Write a commented ResearchRun to start from: for a GPU where this machine has one, else for its CPU."""
    from autoresearch_operator.api.template import commented_run
    from autoresearch_operator.local.machine import gpu_names

    with sentences():
        try:
            with file.open("x", encoding="utf-8") as out:
                out.write(commented_run(name, gpus=min(1, len(gpu_names()))))
        except FileExistsError:
            raise Refusal(f"{file} exists: choose another name, nothing was written") from None
        typer.echo(f"{file} is written. Next: autoresearch run {shlex.quote(str(file))}")


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
        with refusals():
            view = kept_results(workdir_of(workdir))
        if view is not None:
            print_wide(lambda width: results_layout(view, width=width))
            return
    from autoresearch_operator.local import session as sessions
    from autoresearch_operator.observe import tables

    with sentences(), sessions.read(workdir_of(workdir)) as session:
        made_from = facts_now(session.workdir)
        summary = sessions.summary_of(session)
        if as_json:
            print_json(tables.results_json(summary))
        elif tsv:
            typer.echo(tables.results_tsv(summary), nl=False)
        elif everything:
            print_wide(lambda width: tables.results_text(summary, width=width, limit=None))
        else:
            view = tables.results_view(summary)
            with suppress(OSError):  # a folder that cannot be written to can still be read
                keep_results(session.workdir, view, made_from)
            print_wide(lambda width: results_layout(view, width=width))


def show(
    number: Annotated[int, typer.Argument(help="The experiment's number.")],
    workdir: Workdir = None,
    as_json: Json = False,
) -> None:
    """Print one experiment: its diff, its trials, why it got its verdict, and how to measure it again."""
    from autoresearch_operator.local import session as sessions
    from autoresearch_operator.observe import tables

    folder = workdir_or_exit(workdir)
    with sentences(), sessions.read(folder) as session:
        summary = sessions.summary_of(session)
        if summary.row(number) is None:
            raise Refusal(f"experiment {number} is not in {folder}: it has 0 to {len(summary.rows) - 1}")
        experiments = session.store.load().experiments
        diff = session.sources.diff(experiments[number], experiments)
        if as_json:
            rows = tables.results_json(summary)["experiments"]
            print_json({**rows[number], "diff": diff})
            return
        reproduce = f"autoresearch rerun {number} --workdir {shlex.quote(str(folder))}"
        print_wide(lambda _width: tables.show_text(summary, number, diff=diff, reproduce=reproduce))


def report(workdir: Workdir = None, as_json: Json = False) -> None:
    """Write report.html, progress.png and results.tsv into the run's folder."""
    from autoresearch_operator.local import session as sessions
    from autoresearch_operator.local.reporting import write_reports

    with sentences(), sessions.read(workdir_of(workdir)) as session:
        paths = write_reports(session)
        if as_json:
            print_json({"files": [str(path) for path in paths]})
        else:
            for path in paths:
                typer.echo(path)


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

    with sentences(), sessions.read(workdir_of(workdir)) as session:
        again = measure_again(session, number, seed, Settings())
        if as_json:
            print_json({"recorded": again.recorded, "measured": again.measured, "result": again.result})
        else:
            typer.echo(again.sentence)
        if again.measured is None:
            raise typer.Exit(1)


def _next_commands(workdir: Path, branch: str) -> list[str]:
    folder = shlex.quote(os.path.relpath(workdir))
    return [
        f"every candidate:    autoresearch results --workdir {folder}",
        f"the accepted edits: git -C {folder}/repo.git log -p {branch}",
    ]
