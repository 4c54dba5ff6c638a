"""What a run would put into a cluster for its first trial, as YAML: nothing is sent anywhere."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from autoresearch_operator.api import yamltree
from autoresearch_operator.api.load import dump_run, load_run
from autoresearch_operator.api.reasons import ExperimentKind
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.cluster.repositories import NotReady, Repositories
from autoresearch_operator.gateways.process import Access
from autoresearch_operator.manifests import experiment, job, network, source
from autoresearch_operator.manifests.names import ANNOTATION_SOURCE
from autoresearch_operator.manifests.settings import TrialSettings
from autoresearch_operator.research.names import trial_seed
from autoresearch_operator.research.records import ExperimentRecord, Purpose, TrialKey, TrialStart
from autoresearch_operator.research.terms import AUDIT_PAIRS

IMAGE_VARIABLE = "AUTORESEARCH_TRAINER_IMAGE"

_HEADER = """\
# What a run would put into a cluster for its first trial. Objects in a cluster also name their owners, and a chart's
# values may change resources and image. Try it: kubectl apply --dry-run=server -f -
"""


class RenderError(Exception):
    """The run cannot be rendered; the message says why and what to do."""


def render(file: Path, *, namespace: str | None = None, image: str | None = None) -> str:
    """YAML documents: the ResearchRun with its defaults, experiment 0, its files, the first Job and the NetworkPolicy.

    `namespace` replaces the file's; `image` is the installation's trainer image. A run from a git server is fetched
    with the person's own credentials, into a folder that is gone afterwards.

    Raises:
        InvalidResource: the file is not a valid ResearchRun.
        RenderError: it cannot be read, or its source cannot be had.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RenderError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    run = load_run(text, filename=str(file), local=False)
    if namespace is not None:
        moved = run.model_dump(mode="json", exclude_none=True)
        moved["metadata"]["namespace"] = namespace
        run = load_run(
            yaml.dump(moved, Dumper=yamltree.Dumper), filename=f"{file} with --namespace {namespace}", local=False
        )
    parts = [dump_run(run)]
    parts += [
        yaml.dump(body, Dumper=yamltree.Dumper, sort_keys=False, allow_unicode=True, width=120)
        for body in _children(run, TrialSettings(image=image or _default_image()))
    ]
    return _HEADER + "---\n".join(parts)


def _children(run: ResearchRun, settings: TrialSettings) -> list[Mapping[str, Any]]:
    body = run.model_dump(mode="json", exclude_none=True)
    record, files = _baseline(run, body)
    try:
        packed = source.config_map(body, record, files)
    except source.SourceTooLarge as error:
        raise RenderError(str(error)) from error
    key = TrialKey(0, trial_seed(Purpose.BASELINE, 0, 0), 1)
    start = TrialStart(key, run.spec.tiers[0].name, Purpose.BASELINE, 0, "val", AUDIT_PAIRS)
    sha256 = packed["metadata"]["annotations"][ANNOTATION_SOURCE]
    return [
        experiment.experiment(body, record, [record]),
        packed,
        job.trial_job(body, run.spec, start, record, sha256, settings, now=time.time()),
        network.network_policy(body),
    ]


def _baseline(run: ResearchRun, body: Mapping[str, Any]) -> tuple[ExperimentRecord, Mapping[str, str]]:
    """Experiment 0 and its files, from a repository that is made as the operator makes it."""
    own = run.spec.source.model_copy(update={"secret_name": None})
    spec = run.spec.model_copy(update={"source": own})
    # No paths of this machine: the cluster could not read them either.
    access = Access(
        askpass=os.environ.get("GIT_ASKPASS", ""),
        ssh_command=os.environ.get("GIT_SSH_COMMAND", Access.ssh_command),
    )
    with tempfile.TemporaryDirectory(prefix="autoresearch-render-") as folder:
        repositories = Repositories(Path(folder), secrets=lambda _namespace, _name: None, access=access)
        try:
            sources = repositories.open(body, spec).sources
            record = ExperimentRecord(
                number=0,
                kind=ExperimentKind.BASELINE,
                commit=sources.commit,
                tree=sources.tree,
                base=0,
                title="the unedited source",
                proposer="source",
            )
            return record, dict(sources.files(record))
        except NotReady as error:
            raise RenderError(str(error)) from error
        finally:
            repositories.close()


def _default_image() -> str:
    """The image that the chart of this version names, unless the environment says another."""
    return os.environ.get(IMAGE_VARIABLE) or f"autoresearch-trainer:{metadata.version('autoresearch-operator')}"
