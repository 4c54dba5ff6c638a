"""How the tests of the API look at what is wrong with a file."""

from collections.abc import Callable

import pytest
from autoresearch_operator.api.load import InvalidResource, load_run


@pytest.fixture
def problems() -> Callable[[str], list[str]]:
    """The printed problems of a text, without the file and the line."""

    def read(text: str) -> list[str]:
        with pytest.raises(InvalidResource) as caught:
            load_run(text, filename="f.yaml", local=False)
        lines = [str(problem) for problem in caught.value.problems]
        assert str(caught.value) == "\n".join(lines)
        for line in lines:
            assert line.startswith("f.yaml:")
            assert "\n" not in line
            assert len(line) < 500
        return [line.split(": ", 1)[1] for line in lines]

    return read
