"""The commands. Each is a guard, one call, and an exit code: 0 done, 1 it failed, 2 the input is wrong, 130 stopped."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

import typer

from autoresearch_operator.cli import cluster, here
from autoresearch_operator.cli.support import Json, print_json

__all__ = ["app", "main"]

app = typer.Typer(
    name="autoresearch",
    help="Autonomous ML research with scores that can be believed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(here.run)
app.command()(here.init)
app.command()(here.results)
app.command()(here.show)
app.command()(here.report)
app.command()(here.rerun)
# The trainer knows the options of preparing here, and prints its own help.
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)(cluster.prepare)
app.command()(cluster.render)
app.command()(cluster.doctor)
app.command()(cluster.operator)


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
        print_json(found)
    else:
        for name, value in found.items():
            typer.echo(f"{name} {value}")


def main() -> None:
    """Entry point of the `autoresearch` command."""
    try:
        app()
    except BrokenPipeError:
        # `autoresearch results | head`: the reader has what it wanted.
        sys.stderr.close()
        sys.exit(0)
