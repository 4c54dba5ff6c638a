"""What is inside an image: the tar that `scripts/images --save` wrote, layer by layer."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One file of one layer. `path` is without the leading slash; `data` is empty for what is not a regular file."""

    layer: int
    path: str
    mode: int
    uid: int
    gid: int
    size: int
    data: bytes


class Archive:
    """An image in the format of `docker save`. Layers are numbered from the base upwards."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with tarfile.open(path) as outer:
            self._layers: list[str] = self._json(outer, "manifest.json")[0]["Layers"]
            self.config: dict[str, Any] = self._json(outer, self._json(outer, "manifest.json")[0]["Config"])
            self.layer_bytes = [self._member(outer, name).size for name in self._layers]
            """Bytes of each layer's tar, uncompressed: what a node's disk holds, near enough."""

    def entries(self, first_layer: int = 0, *, largest: int = 256 << 20) -> Iterator[Entry]:
        """Every entry from `first_layer` upwards; of files over `largest` bytes only that much is read."""
        with tarfile.open(self._path) as outer:
            for number, name in list(enumerate(self._layers))[first_layer:]:
                opened = outer.extractfile(self._member(outer, name))
                assert opened is not None
                with tarfile.open(fileobj=opened) as layer:
                    for entry in layer:
                        file = layer.extractfile(entry) if entry.isreg() else None
                        data = file.read(largest) if file else b""
                        path = entry.name.removeprefix("./")
                        yield Entry(number, path, entry.mode, entry.uid, entry.gid, entry.size, data)

    @staticmethod
    def _json(outer: tarfile.TarFile, name: str) -> Any:
        file = outer.extractfile(name)
        assert file is not None
        return json.load(file)

    @staticmethod
    def _member(outer: tarfile.TarFile, name: str) -> tarfile.TarInfo:
        entry = outer.getmember(name)
        # A layer that occurs twice is stored once, with a link.
        return outer.getmember(entry.linkname.rsplit("../", 1)[-1]) if entry.issym() else entry
