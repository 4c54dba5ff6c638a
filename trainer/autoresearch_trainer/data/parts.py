"""A prepared data set in two parts, so that gate and judge can each be given what they need and nothing else.

Part `train` holds the training split, part `val` holds val and test; each is a data set of its own, with the whole
manifest, the tokenizer and the byte table, for everything that reads data sets.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from . import manifest as manifests
from .errors import DataError
from .manifest import Manifest

PARTS = {"train": ("train",), "val": ("val", "test")}
"""Part -> the splits in it."""

_WHOLE = ".whole"
_COMMON = (manifests.FILE_NAME, "near_duplicates.json")


def whole_folder(out: Path) -> Path:
    """Where the data set is built before it is parted; it is gone when `part` has ended."""
    return out / _WHOLE


def present(out: Path) -> Manifest | None:
    """The manifest when both parts are in out, every file with the right hash; None when one is missing.

    Raises DataError when a file has changed or the parts are of different data sets.
    """
    if not all((out / part / manifests.FILE_NAME).is_file() for part in PARTS):
        return None
    found = {part: manifests.load(out / part) for part in PARTS}
    train, val = found["train"], found["val"]
    if train.identity != val.identity:
        raise DataError(f"{out} holds parts of two data sets: delete {out / 'train'} and {out / 'val'}, prepare again")
    for part, manifest in found.items():
        manifest.verify(out / part, PARTS[part])
    return train


def part(out: Path) -> Manifest:
    """Parts the data set in whole_folder(out) into out/train and out/val, and removes it.

    Files are linked, so that no disk is used twice; where links are not possible they are copied. Can be killed
    anywhere: a part appears whole or not at all, and the next call goes on. Raises DataError.
    """
    whole = whole_folder(out)
    manifest = manifests.load(whole)
    try:
        for name, splits in PARTS.items():
            if not (out / name / manifests.FILE_NAME).is_file():
                _make(whole, out, name, splits, manifest)
        shutil.rmtree(whole)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}; the same command continues") from error
    return manifest


def _make(whole: Path, out: Path, name: str, splits: tuple[str, ...], manifest: Manifest) -> None:
    unfinished, target = out / f".{name}.tmp", out / name
    for leftover in (unfinished, target):
        if leftover.exists():
            shutil.rmtree(leftover)
    files = [manifest.tokenizer, manifest.token_bytes, *(file for file in _COMMON if (whole / file).is_file())]
    files += [shard.file for split in splits for shard in manifest.splits[split].shards]
    for file in files:
        place = unfinished / file
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(whole / file, place)
        except OSError:  # a file system without links, such as many network ones
            shutil.copyfile(whole / file, place)
    unfinished.rename(target)
