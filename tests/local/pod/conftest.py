"""One prepared data set in two parts for all tests of this folder, and pods that leave nothing running."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from autoresearch_trainer.data import parts

sys.path.append(str(Path(__file__).parent.parent / "runtime"))

import poddriver
import warmdriver


@pytest.fixture(scope="session")
def data_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("parts")
    whole = parts.whole_folder(out)
    whole.mkdir()
    warmdriver.make_data(whole)
    parts.part(out)
    return out


@pytest.fixture
def make_pod(tmp_path: Path, data_parts: Path) -> Iterator[Callable[..., poddriver.Pod]]:
    made: list[poddriver.Pod] = []
    numbers = itertools.count()

    def make(script: str, **changes: Any) -> poddriver.Pod:
        folder = tmp_path / f"pod{next(numbers)}"
        folder.mkdir()
        made.append(poddriver.Pod(folder, data_parts / "train", data_parts / "val", script, **changes))
        return made[-1]

    yield make
    for pod in made:
        pod.close()
