"""Prepared data: what is written is what is read, and everything else is refused with a sentence."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from autoresearch_trainer.data import DataError, TokenSplit, cli, files, load, shards, token_bytes
from autoresearch_trainer.data import tokenizer as tokenizers
from autoresearch_trainer.data.build import Recipe, prepare
from autoresearch_trainer.data.corpus import Document, MemoryCorpus, assign_splits, read_text_files
from autoresearch_trainer.data.demo import read_library
from hypothesis import given, settings
from hypothesis import strategies as st

WORDS = [
    f"{a}{b}" for a in ("sol", "mer", "tan", "vok", "pri", "lun") for b in ("ar", "et", "is", "om", "ul", "en", "é")
]


def some_text(seed: int, words: int = 120) -> str:
    chooser = random.Random(seed)
    return " ".join(chooser.choice(WORDS) for _ in range(words)) + "\n"


def some_documents(count: int = 80) -> list[Document]:
    return [Document(f"file{number}.txt", some_text(number)) for number in range(count)]


def recipe(**changes: object) -> Recipe:
    values = {
        "name": "made", "licence": "none", "vocab_size": 300, "max_seq_len": 16, "eval_batch": 4, "source": "0" * 64,
    }  # fmt: skip
    return Recipe(**(values | changes))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("data") / "made"
    prepare(assign_splits(some_documents()), recipe(shard_tokens=5000), target, lambda _: None)
    return target


def test_a_prepared_set_reads_back_as_the_documents_that_went_in(prepared: Path) -> None:
    manifest = load(prepared)
    tokenizer = tokenizers.load(prepared / manifest.tokenizer)
    wanted = assign_splits(some_documents())
    for split in ("train", "val", "test"):
        opened = TokenSplit(prepared, split, verify=True)
        ids = opened.window(0, opened.tokens)
        starts = opened.document_starts(tokenizer.bos)
        texts = [tokenizer.decode(part[1:].tolist()) for part in np.split(ids, starts[1:])]
        assert texts == [document.text for document in wanted.documents(split)]
        assert opened.bytes == sum(len(text.encode()) for text in texts)
        assert int(token_bytes(prepared, manifest)[ids].sum()) == opened.bytes
    assert len(manifest.splits["train"].shards) > 1


def test_a_window_may_cross_shards_and_nothing_else(prepared: Path) -> None:
    train = TokenSplit(prepared, "train")
    whole = np.concatenate(train.shards)
    border = len(train.shards[0])
    assert (train.window(border - 5, 11) == whole[border - 5 : border + 6]).all()
    assert len(train.window(train.tokens, 0)) == 0
    with pytest.raises(DataError, match="were asked for, and the train split has"):
        train.window(train.tokens - 3, 4)


def test_preparing_twice_gives_the_same_bytes_and_the_second_time_writes_nothing(
    prepared: Path, tmp_path: Path
) -> None:
    again = prepare(assign_splits(some_documents()), recipe(shard_tokens=5000), tmp_path / "again", lambda _: None)
    assert again.identity == load(prepared).identity
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    prepare(assign_splits(some_documents()), recipe(shard_tokens=5000), prepared, lambda _: None)
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before


def test_another_text_is_another_identity(prepared: Path, tmp_path: Path) -> None:
    documents = some_documents()
    documents[3] = Document(documents[3].name, documents[3].text.upper())
    other = prepare(assign_splits(documents), recipe(shard_tokens=5000), tmp_path / "other", lambda _: None)
    assert other.identity != load(prepared).identity


def test_a_failed_preparation_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gives only \d+ tokens"):
        prepare(assign_splits(some_documents()), recipe(vocab_size=60000), tmp_path / "made", lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: files.shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(DataError, match="free some space"):
        prepare(assign_splits(some_documents()), recipe(), tmp_path / "made", lambda _: None)


def test_a_damaged_set_is_refused_by_the_file_that_is_damaged(prepared: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    shard = copy / "val" / "00000.bin"
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    TokenSplit(copy, "val")
    with pytest.raises(DataError, match=r"00000.bin has changed since it was prepared"):
        TokenSplit(copy, "val", verify=True)
    shard.write_bytes(data[:-2])
    with pytest.raises(DataError, match="it was cut or replaced"):
        TokenSplit(copy, "val")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 2}, "version is 2"),
        ({"vocabSize": 70000}, "vocabSize must be a whole number from 257 to 65536"),
        ({"vocabSize": True}, "vocabSize must be a whole number"),
        ({"tokenizer": "../elsewhere.json"}, "must be a path inside"),
        ({"evalBatch": 5}, "identity does not fit"),
        ({"extra": 1}, "unknown member 'extra'"),
        ({"splits": []}, "an object was expected"),
    ],
)
def test_an_edited_manifest_is_refused_with_a_sentence(
    prepared: Path, tmp_path: Path, change: dict, sentence: str
) -> None:
    document = json.loads((prepared / "manifest.json").read_text()) | change
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=sentence):
        load(tmp_path)


def test_a_folder_without_a_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="autoresearch prepare --demo"):
        load(tmp_path)


def test_byte_lengths_are_those_of_the_token_bytes_not_of_their_text() -> None:
    tokenizer = tokenizers.train([some_text(1, 3000)], 320)
    table = tokenizer.token_bytes()
    assert [len(tokenizer.encoding.decode_single_token_bytes(i)) for i in range(319)] == table[:-1].tolist()
    assert table[tokenizer.bos] == 0
    lone = tokenizer.ranks["é".encode()[:1]]
    assert table[lone] == 1
    assert len(tokenizer.decode([lone]).encode()) == 3  # the replacement character: what must not be counted


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200))
def test_any_text_survives_encoding(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


TOKENIZER = tokenizers.train([some_text(2, 3000)], 300)


def test_a_tokenizer_is_stored_as_data_and_comes_back_equal(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "t.json")
    again = tokenizers.load(tmp_path / "t.json")
    assert (again.ranks, again.pattern, again.bos) == (TOKENIZER.ranks, TOKENIZER.pattern, TOKENIZER.bos)
    (tmp_path / "t.json").write_text('{"version": 1, "tokens": ["YQ=="], "pattern": "x", "specialTokens": {}}')
    with pytest.raises(DataError, match="special tokens"):
        tokenizers.load(tmp_path / "t.json")


@settings(max_examples=30, deadline=None)
@given(st.sets(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), min_size=40, max_size=120), st.randoms())
def test_splits_are_disjoint_complete_and_independent_of_the_order_of_files(names: set[str], chooser) -> None:
    documents = [Document(name, "x" * (len(name) * 37 + 5)) for name in sorted(names)]
    splits = assign_splits(documents).splits
    found = [document.name for split in splits.values() for document in split]
    assert sorted(found) == sorted(names)
    shuffled = documents[:]
    chooser.shuffle(shuffled)
    assert assign_splits(shuffled).splits == splits
    assert sum(len(d.text) for d in splits["val"]) >= 0.05 * sum(len(d.text) for d in documents)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(257, 65536), st.lists(st.lists(st.integers(0, 65535), min_size=1, max_size=30), min_size=1, max_size=20)
)
def test_shards_hold_every_id_below_the_vocabulary_and_refuse_the_rest(
    tmp_path_factory: pytest.TempPathFactory, vocab_size: int, documents: list[list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    writer = shards.ShardWriter(folder, "train", vocab_size, shard_tokens=40)
    kept = []
    for ids in documents:
        if max(ids) < vocab_size:
            assert writer.add(ids) == len(ids)
            kept += ids
        else:
            with pytest.raises(DataError, match="token id outside"):
                writer.add(ids)
    written = writer.close()
    data = [np.fromfile(folder / shard.file, dtype="<u2") for shard in written]
    assert [int(i) for part in data for i in part] == kept
    with pytest.raises(DataError, match="does not fit uint16"):
        shards.ShardWriter(folder, "val", 65537)


def near_copy(text: str) -> str:
    words = text.split(" ")
    words[10] = "CHANGED"
    return " ".join(words)


def test_near_duplicates_leave_val_and_test_and_are_reported(tmp_path: Path) -> None:
    train = [Document(f"t{i}", some_text(i, 300)) for i in range(30)]
    val = [Document(f"v{i}", some_text(100 + i, 300)) for i in range(10)]
    test = [Document(f"e{i}", some_text(200 + i, 300)) for i in range(10)]
    val[4] = Document("copy-of-train", near_copy(train[7].text))
    test[2] = Document("copy-of-val", near_copy(val[1].text))
    corpus = MemoryCorpus({"train": train, "val": val, "test": test})
    prepare(corpus, recipe(), tmp_path / "made", lambda _: None)
    report = json.loads((tmp_path / "made" / "near_duplicates.json").read_text())
    removed = {(entry["split"], entry["document"], entry["of"]) for entry in report["removed"]}
    assert removed == {("val", "copy-of-train", "t7"), ("test", "copy-of-val", "v1")}
    assert all(entry["similarity"] >= 0.8 for entry in report["removed"])
    bos = tokenizers.load(tmp_path / "made" / "tokenizer.json").bos
    assert len(TokenSplit(tmp_path / "made", "val").document_starts(bos)) == 9


def test_a_corpus_that_is_mostly_copies_is_refused(tmp_path: Path) -> None:
    train = [Document(f"t{i}", some_text(i, 300)) for i in range(30)]
    val = [Document(f"v{i}", near_copy(document.text)) for i, document in enumerate(train[:5])]
    corpus = MemoryCorpus({"train": train, "val": val, "test": [Document("e", some_text(99, 300))]})
    with pytest.raises(DataError, match="5 of the 5 documents of val are near-duplicates"):
        prepare(corpus, recipe(), tmp_path / "made", lambda _: None)


def test_the_library_of_this_python_is_a_corpus() -> None:
    documents = read_library()
    names = [document.name for document in documents]
    assert names == sorted(names, key=Path)
    assert len(set(names)) == len(names)
    assert not [name for name in names if name.split("/")[0] in ("test", "idlelib", "encodings", "site-packages")]
    assert sum(len(document.text) for document in documents) > 4_000_000


def test_a_library_without_sources_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give text of your own with --text"):
        read_library(tmp_path)


def test_one_large_file_is_cut_into_documents_that_can_be_split(tmp_path: Path) -> None:
    text = "".join(some_text(i, 10) for i in range(500))
    (tmp_path / "all.txt").write_text(text)
    documents = read_text_files([tmp_path / "all.txt"])
    assert 200 < len(documents) <= 500
    assert "".join(document.text for document in documents) == text


def test_the_command_prints_the_folder_last_and_refuses_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "all.txt").write_text("".join(some_text(i, 60) for i in range(400)))
    assert cli.main(["--text", str(tmp_path / "all.txt"), "--vocab-size", "300", "--max-seq-len", "32"]) == 0
    folder = Path(json.loads(capsys.readouterr().out.splitlines()[-1])["dataDir"])
    assert folder.parent == tmp_path / "cache" / "data"
    assert load(folder).max_seq_len == 32
    assert cli.main(["--text", str(tmp_path / "none.txt")]) == 2
    assert "there is no file or folder" in capsys.readouterr().err
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert cli.main(["--text", str(tmp_path / "latin.txt")]) == 2
    assert "is not UTF-8 text (byte 3)" in capsys.readouterr().err
