"""A small data set and artifacts made by the real writer, for tests of the judge."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from autoresearch_trainer import artifact
from autoresearch_trainer.data.manifest import Manifest, Split
from autoresearch_trainer.data.shards import ShardWriter
from autoresearch_trainer.judge import score_artifact
from judgemodels import BATCH, LENGTH, VOCAB


@pytest.fixture(autouse=True, scope="session")
def quiet_and_single_threaded() -> None:
    """pytest listens to every logger, which makes torch write down each step of an export; and cores are shared."""
    logging.getLogger("torch.__trace").disabled = True
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of 5 to 60 random words-like tokens over a vocabulary of 300, BOS 299; about 12,000 tokens a split."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(7)
    splits = {}
    for split in ("train", "val", "test"):
        writer = ShardWriter(folder, split, VOCAB)
        tokens = 0
        for _ in range(400):
            body = random.zipf(1.3, int(random.integers(5, 60))) % (VOCAB - 1)
            tokens += writer.add([VOCAB - 1, *body.tolist()])
        splits[split] = Split(writer.close(), tokens, 3 * tokens)
    lengths = random.integers(1, 6, VOCAB).astype(np.int16)
    lengths[VOCAB - 1] = 0
    np.save(folder / "token_bytes.npy", lengths)
    (folder / "tokenizer.json").write_text("{}")
    hashes = {name: _sha256(folder / name) for name in ("tokenizer.json", "token_bytes.npy")}
    Manifest(
        name="small",
        vocab_size=VOCAB,
        max_seq_len=LENGTH,
        eval_batch=BATCH,
        tokenizer="tokenizer.json",
        tokenizer_sha256=hashes["tokenizer.json"],
        token_bytes="token_bytes.npy",  # noqa: S106 - a file of byte lengths
        token_bytes_sha256=hashes["token_bytes.npy"],
        corpus_sha256="0" * 64,
        licence="made up",
        splits=splits,
    ).write(folder)
    return folder


def _sha256(path: Path) -> str:
    from autoresearch_trainer.data.files import file_sha256

    return file_sha256(path)


@pytest.fixture
def hand_over(tmp_path: Path) -> Callable[[torch.nn.Module], Path]:
    """Writes a model as the client does, through a Receiver, and gives the artifact's folder."""

    def write(model: torch.nn.Module) -> Path:
        folder = tmp_path / "artifact"
        folder.mkdir()
        receiver = artifact.Receiver(folder)
        artifact.trace(model, BATCH, LENGTH, VOCAB).write(receiver)
        receiver.close()
        return folder

    return write


@pytest.fixture
def judged(data_dir: Path) -> Callable[..., dict[str, Any]]:
    """Scores an artifact's folder."""

    def judge(folder: Path, **options: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {"audit_pairs": 128, "eval_tokens": 2048, "seed": 1, "device": "cpu"} | options
        return score_artifact(folder, data_dir, "val", **settings)

    return judge
