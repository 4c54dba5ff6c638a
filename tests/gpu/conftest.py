"""Trials on a real GPU. On a machine with one: `pytest tests/gpu -s` (prints what was measured; some minutes).

Needs an NVIDIA driver, nvidia-ml-py, a PyTorch with CUDA, and a GPU that nobody else uses. Everywhere else each test is
skipped and says why.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "local" / "runtime"))

import warmdriver
from autoresearch_trainer import hardware


def _missing() -> str | None:
    """Why there can be no trial on a GPU here."""
    gpus = hardware.GPUs()
    try:
        if not len(gpus):
            return "NVML shows no GPU: no NVIDIA driver, or nvidia-ml-py is not installed"
        used = gpus.used_bytes()
        if used and used[0] > hardware.GPU_USED_BYTES:
            return f"GPU 0 is in use by somebody ({used[0] >> 20} MiB)"
    finally:
        gpus.close()
    import torch

    return None if torch.cuda.is_available() else "this PyTorch has no CUDA, or the driver is too old for it"


@pytest.fixture(scope="session")
def gpu() -> str:
    """The trial's device; skips where there is none."""
    missing = _missing()
    if missing:
        pytest.skip(missing)
    return "cuda:0"


@pytest.fixture(scope="session")
def data_dir(gpu: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return warmdriver.make_data(tmp_path_factory.mktemp("data"), tokens=400_000, max_seq_len=256, eval_batch=16)


@pytest.fixture(scope="session")
def warm(gpu: str, tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[warmdriver.WarmProcess]:
    process = warmdriver.WarmProcess(tmp_path_factory.mktemp("trials"), data_dir)
    yield process
    process.close()
