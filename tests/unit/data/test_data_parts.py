"""A data set in two parts: the gate's holds no validation data, the judge's no training data, and both read as sets."""

import json
import os
from pathlib import Path

import pytest
from autoresearch_trainer.data import DataError, TokenSplit, cli, load, parts

TEXT = "".join(
    f"line {number} of a text that has several words in it, {number * 7919 % 1009}\n\n" for number in range(4000)
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for number in range(40):
        (folder / f"f{number:02d}.txt").write_text(TEXT[number * 5000 : (number + 1) * 5000])
    return folder


def prepare(text: Path, out: Path, *more: str) -> int:
    return cli.main(["--text", str(text), "--vocab-size", "300", "--max-seq-len", "16", "--out", str(out), *more])


def test_each_part_holds_its_splits_and_nothing_else(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "volume"
    assert prepare(text, out, "--parts") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["trainDir"], told["valDir"]) == (str(out / "train"), str(out / "val"))
    assert {path.name for path in (out / "train").iterdir() if path.is_dir()} == {"train"}
    assert {path.name for path in (out / "val").iterdir() if path.is_dir()} == {"val", "test"}
    assert {path.name for path in out.iterdir()} == {"train", "val"}, "the whole set was left behind"
    assert load(out / "train").identity == load(out / "val").identity == told["identity"]
    TokenSplit(out / "train", "train", verify=True)
    TokenSplit(out / "val", "val", verify=True)
    TokenSplit(out / "val", "test", verify=True)
    for part, split in (("train", "val"), ("train", "test"), ("val", "train")):
        with pytest.raises(DataError, match=f"does not hold its {split} split"):
            TokenSplit(out / part, split)


def test_a_second_run_finds_the_parts_and_checks_them(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(text, tmp_path, "--parts") == 0
    shard = next((tmp_path / "val" / "val").iterdir())
    before = shard.stat().st_mtime_ns
    assert prepare(text, tmp_path, "--parts") == 0
    assert shard.stat().st_mtime_ns == before
    capsys.readouterr()
    assert prepare(text, tmp_path, "--parts", "--vocab-size", "310") == 2
    assert "another data set" in capsys.readouterr().err
    shard.write_bytes(bytes(len(shard.read_bytes())))
    assert prepare(text, tmp_path, "--parts") == 2
    assert "has changed since" in capsys.readouterr().err


def test_an_interrupted_parting_goes_on(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, made = os.link, 0

    def fails(source: Path, target: Path) -> None:
        nonlocal made
        made += 1
        if made > 5:
            raise KeyboardInterrupt
        link(source, target)

    monkeypatch.setattr(os, "link", fails)
    assert prepare(text, tmp_path, "--parts") == 130
    monkeypatch.setattr(os, "link", link)
    assert prepare(text, tmp_path, "--parts") == 0
    assert parts.present(tmp_path) is not None


def test_a_volume_without_links_gets_copies(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)
    assert prepare(text, tmp_path, "--parts") == 0
    TokenSplit(tmp_path / "val", "val", verify=True)


def test_parts_need_a_place_and_do_not_mix_with_a_whole_set(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--text", str(text), "--parts"]) == 2
    assert "--parts goes with --out" in capsys.readouterr().err
    assert prepare(text, tmp_path / "whole") == 0
    assert prepare(text, tmp_path / "whole", "--parts") == 2
    assert "holds a whole data set" in capsys.readouterr().err
