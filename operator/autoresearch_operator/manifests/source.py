"""A candidate's files, packed once into an immutable ConfigMap."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from collections.abc import Mapping
from typing import Any

from autoresearch_operator.manifests.names import (
    ANNOTATION_SOURCE,
    EXPERIMENT_KIND,
    LABEL_EXPERIMENT,
    Object,
    experiment_name,
    ownership,
    run_labels,
)
from autoresearch_operator.research.records import ExperimentRecord

KEY = "source.tar"
MAX_BYTES = 700 * 1024
"""Packed. etcd takes requests of 1.5 MiB, a ConfigMap 1 MiB; base64 makes a third more of 700 KiB."""
_NAMED = 3


class SourceTooLarge(Exception):
    """A candidate's files do not fit into a ConfigMap. The sentence names the largest of them."""


def pack(files: Mapping[str, str]) -> tuple[bytes, str]:
    """Files (path -> text) as an archive, and its SHA-256 in hexadecimal.

    The same files give the same bytes: sorted, dated 0, owned by nobody, readable by all, ustar.

    Raises:
        SourceTooLarge: the archive is over 700 KiB, or a path is longer than the format holds.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(files):
            content = files[path].encode("utf-8")
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o444
            try:
                archive.addfile(entry, io.BytesIO(content))
            except ValueError:
                raise SourceTooLarge(
                    f"the path {path[:120]}… is too long to be packed: keep paths under 100 characters"
                ) from None
    packed = buffer.getvalue()
    if len(packed) > MAX_BYTES:
        raise SourceTooLarge(_sentence(files, len(packed)))
    return packed, hashlib.sha256(packed).hexdigest()


def config_map(
    run: Object, record: ExperimentRecord, files: Mapping[str, str], *, experiment: Object | None = None
) -> dict[str, Any]:
    """The ConfigMap with an experiment's packed files, deleted with `experiment` once that has a UID.

    Raises:
        SourceTooLarge: see `pack`.
    """
    packed, sha256 = pack(files)
    name = run["metadata"]["name"]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": experiment_name(name, record.number),
            "namespace": run["metadata"]["namespace"],
            "labels": {**run_labels(name), LABEL_EXPERIMENT: str(record.number)},
            "annotations": {ANNOTATION_SOURCE: sha256},
            **ownership(experiment, EXPERIMENT_KIND),
        },
        "immutable": True,
        "binaryData": {KEY: base64.b64encode(packed).decode("ascii")},
    }


def _sentence(files: Mapping[str, str], packed: int) -> str:
    sizes = sorted(((len(text.encode("utf-8")), path) for path, text in files.items()), reverse=True)
    largest = ", ".join(f"{path} ({size / 1024:.0f} KiB)" for size, path in sizes[:_NAMED])
    return (
        f"the files of a trial take {packed / 1024:.0f} KiB packed, and {MAX_BYTES // 1024} KiB fit; the largest of "
        f"{len(files)}: {largest}. Move data out of the repository's Python and editable files"
    )
