"""A candidate's files as one archive: the same bytes for the same files, and never more than fits."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile

import podshapes as shapes
import pytest
from autoresearch_operator.manifests.source import MAX_BYTES, SourceTooLarge, config_map, pack
from hypothesis import given, settings
from hypothesis import strategies as st

paths = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}\.py", fullmatch=True)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(paths, st.text(max_size=200), min_size=1, max_size=6))
def test_files_come_out_as_they_went_in_whatever_their_order(files: dict[str, str]) -> None:
    packed, sha256 = pack(files)
    assert pack(dict(reversed(list(files.items())))) == (packed, sha256)
    assert hashlib.sha256(packed).hexdigest() == sha256
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        members = archive.getmembers()
        out = {one.name: (archive.extractfile(one) or io.BytesIO()).read().decode() for one in members}
    assert out == files
    assert all((one.mtime, one.uid, one.uname, one.mode, one.isreg()) == (0, 0, "", 0o444, True) for one in members)


def test_one_changed_character_changes_the_hash() -> None:
    assert pack({"train.py": "LR = 0.1\n"})[1] != pack({"train.py": "LR = 0.2\n"})[1]


def test_too_many_bytes_are_refused_with_the_largest_files_named() -> None:
    files = {
        "train.py": "x" * 1000,
        "vocabulary.py": "é" * (300 << 10),
        "tables/big.py": "y" * (200 << 10),
        "a.py": "z",
    }
    with pytest.raises(SourceTooLarge) as refused:
        pack(files)
    sentence = str(refused.value)
    assert "and 700 KiB fit" in sentence
    assert "vocabulary.py (600 KiB), tables/big.py (200 KiB), train.py (1 KiB)" in sentence
    assert "a.py (" not in sentence


def test_the_most_that_fits_fits_into_a_config_map() -> None:
    largest = {"train.py": "x" * (MAX_BYTES - 10240)}
    made = config_map(shapes.as_object(shapes.request()), shapes.RECORD, largest)
    assert len(made["binaryData"]["source.tar"]) < 1 << 20
    with pytest.raises(SourceTooLarge):
        pack({"train.py": "x" * MAX_BYTES})


def test_a_path_that_the_format_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(SourceTooLarge, match="too long to be packed"):
        pack({"d" * 120 + ".py": "pass\n"})


def test_a_config_map_is_immutable_and_says_what_it_holds() -> None:
    files = {"train.py": "print(1)\n"}
    made = config_map(shapes.as_object(shapes.request()), shapes.RECORD, files)
    assert made["metadata"]["name"] == "first-17"
    assert made["immutable"] is True
    packed = base64.b64decode(made["binaryData"]["source.tar"])
    assert (packed, made["metadata"]["annotations"]["autoresearch.dev/source-sha256"]) == pack(files)
