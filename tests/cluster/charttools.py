"""Helm and kubeconform as the tests of the chart use them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from clusterlab import tools
from clusterlab.cluster import Cluster

CHART = Path(__file__).resolve().parents[2] / "charts" / "autoresearch-operator"
EXAMPLES = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*.yaml"))}
"""Sets of values that every check of a rendered chart is run with, beside the defaults."""

Object = dict[str, Any]

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class HelmFailed(Exception):
    """Helm ended with another code than 0; the message is what it said."""


class Helm:
    """Helm with a home of its own, against one cluster or against none."""

    def __init__(self, folder: Path, cluster: Cluster | None = None) -> None:
        self._folder = folder
        self._cluster = cluster
        self._program = str(tools.program("helm"))
        self._rendered: dict[tuple[str | Path, ...], str] = {}

    def __call__(self, *arguments: str | Path) -> str:
        """Standard output. Raises HelmFailed."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HELM_", "KUBE"))}
        environment |= {f"HELM_{kind}_HOME": str(self._folder / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        # Without a cluster the file does not exist, and helm asks nobody.
        kubeconfig = self._cluster.kubeconfig if self._cluster else self._folder / "no-cluster"
        done = subprocess.run(
            [self._program, *map(str, arguments)],
            env=environment | {"KUBECONFIG": str(kubeconfig)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if done.returncode != 0:
            raise HelmFailed(f"{done.stdout}\n{done.stderr}")
        return done.stdout

    def render(
        self,
        example: str = "default",
        *,
        namespace: str = "lab",
        values: Mapping[str, Any] | None = None,
        chart: Path = CHART,
    ) -> list[Object]:
        """The objects that an installation named `first` makes. `values` come over the example's."""
        arguments = ("template", "first", chart, "--namespace", namespace, *self.arguments(example, values))
        if arguments not in self._rendered:
            self._rendered[arguments] = self(*arguments)
        return [document for document in yaml.load_all(self._rendered[arguments], Loader=_Loader) if document]

    def arguments(self, example: str, values: Mapping[str, Any] | None) -> list[str | Path]:
        """The options that name values."""
        found: list[str | Path] = [] if example == "default" else ["--values", EXAMPLES[example]]
        if values:
            path = self._folder / f"values-{len(list(self._folder.iterdir()))}.yaml"
            path.write_text(yaml.safe_dump(dict(values)))
            found += ["--values", path]
        return found


def one(objects: list[Object], kind: str, name: str | None = None) -> Object:
    """The object of a kind (and name). Fails when there is none, or more than one."""
    found = [o for o in objects if o["kind"] == kind and (name is None or o["metadata"]["name"] == name)]
    assert len(found) == 1, [f"{o['kind']}/{o['metadata']['name']}" for o in objects]
    return found[0]


def names(objects: list[Object]) -> set[str]:
    return {f"{o['kind']}/{o['metadata']['name']}" for o in objects}


def strict_schemas(cluster: Cluster, folder: Path) -> str:
    """Writes a JSON schema for every kind that the API server has, for kubeconform, and gives their location.

    They come from the server's own OpenAPI: the published ones would have to be fetched, and know no kind of ours.
    """
    for path in cluster.api.get("/openapi/v3")["paths"]:
        if not path.startswith(("api/", "apis/")) or path.count("/") < 1:
            continue
        document = cluster.api.get(f"/openapi/v3/{path}")
        definitions = document.get("components", {}).get("schemas", {})
        strict = {name: _strict(schema) for name, schema in definitions.items()}
        for name, schema in definitions.items():
            for kind in schema.get("x-kubernetes-group-version-kind", ()):
                # kubeconform takes the version for the group of what has none.
                file = f"{kind['kind']}-{kind['group'] or kind['version']}-{kind['version']}".lower()
                whole = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": strict}}
                (folder / f"{file}.json").write_text(json.dumps(whole))
    return str(folder / "{{.ResourceKind}}-{{.Group}}-{{.ResourceAPIVersion}}.json")


def _strict(schema: Any) -> Any:
    """Refuses fields that the server does not know, and reads IntOrString as what it is."""
    if isinstance(schema, list):
        return [_strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {key: _strict(value) for key, value in schema.items() if key not in ("default", "properties")}
    if tidy.get("format") == "int-or-string" or tidy.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in schema:
        tidy["properties"] = {name: _strict(below) for name, below in schema["properties"].items()}
        tidy.setdefault("additionalProperties", bool(tidy.get("x-kubernetes-preserve-unknown-fields")))
    return tidy


def kubeconform(objects: list[Object], location: str) -> None:
    """Fails with kubeconform's words when an object does not fit its schema, or has none."""
    done = subprocess.run(
        [str(tools.program("kubeconform")), "-strict", "-summary", "-schema-location", location, "-"],
        input=yaml.safe_dump_all(objects),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
