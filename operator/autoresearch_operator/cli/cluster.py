"""Commands about a cluster, and the two that look at this machine unless a cluster is named: prepare and doctor."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from autoresearch_operator.cli.support import (
    Context,
    Json,
    Kubeconfig,
    Refusal,
    Workdir,
    cluster_sentences,
    print_json,
    print_wide,
    sentences,
)
from autoresearch_operator.settings import Settings

_PREPARE_HELP = """
onto a claim of a cluster, by a Job (no --text, no --out):
  --claim NAME          the PersistentVolumeClaim; train/ and val/ are written at its top
  --namespace, -n NS    its namespace (default: default)
  --apply               create the Job and its NetworkPolicy; without it they are printed
  --trainer-image, --proxy, --kubeconfig, --context"""


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
    with sentences():
        if claim is None:
            trainer = Settings().trainer
            code = subprocess.run([*trainer, "prepare", *context.args], check=False).returncode
            if {"-h", "--help"} & set(context.args):
                typer.echo(_PREPARE_HELP)
            raise typer.Exit(code)
        with cluster_sentences():
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

    with sentences():
        try:
            typer.echo(rendered(file, namespace=namespace, image=trainer_image), nl=False)
        except RenderError as error:
            raise Refusal(str(error)) from None


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

    with sentences():
        if namespace is None:
            from autoresearch_operator.local import doctor as doctors

            if file or kubeconfig or context:
                raise Refusal("--file, --kubeconfig and --context go with --namespace: they are about a cluster")
            findings = doctors.diagnose(workdir or Path(), Settings())
        else:
            with cluster_sentences():
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
            print_json(findings_json(findings))
        else:
            print_wide(lambda width: findings_table(findings, width=width))
        if code := exit_code(findings):
            raise typer.Exit(code)


def operator() -> None:
    """Run the operator in a cluster. Its settings are AUTORESEARCH_* variables: docs/reference/settings.md."""
    with sentences(), cluster_sentences():
        from autoresearch_operator.handlers.command import serve

        raise typer.Exit(serve())
