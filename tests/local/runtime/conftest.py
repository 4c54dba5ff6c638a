"""One warm process for all tests of this folder: starting it costs seconds, a trial a fraction of one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import warmdriver


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return warmdriver.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def warm_session(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Iterator[warmdriver.WarmProcess]:
    process = warmdriver.WarmProcess(tmp_path_factory.mktemp("trials"), data_dir, {"OPENAI_API_KEY": "hunter2-secret"})
    yield process
    tree = process.start_daemons()
    process.close()
    assert warmdriver.wait_until_gone(tree) < 1, "the end of stdin left processes behind"


@pytest.fixture
def warm(warm_session: warmdriver.WarmProcess) -> Iterator[warmdriver.WarmProcess]:
    """The shared warm process; after each test nothing of the trial may be left."""
    yield warm_session
    assert warm_session.wait_until_idle() == set(), "the trial left processes behind"
