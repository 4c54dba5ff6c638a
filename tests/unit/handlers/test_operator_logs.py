"""Log lines: one JSON object each, with the run and the experiment, and without secrets."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest
from autoresearch_operator import logs


@pytest.fixture(autouse=True)
def root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_names_time_level_logger_run_and_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    with logs.about("lab/first", 17):
        logging.getLogger("autoresearch_operator.cluster").info("accepted %s", "it")
    logging.getLogger("kopf").warning("no run here")
    first, second = lines(capsys)
    assert first.pop("time", "").endswith("Z")  # type: ignore[attr-defined]  # a string
    assert first == {
        "level": "info",
        "logger": "autoresearch_operator.cluster",
        "message": "accepted it",
        "run": "lab/first",
        "experiment": 17,
    }
    assert "run" not in second


def test_tasks_and_threads_started_for_a_run_keep_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logger = logging.getLogger("autoresearch_operator.cluster")

    async def story() -> None:
        with logs.about("lab/first"):
            task = asyncio.create_task(asyncio.to_thread(logger.info, "from a thread"))
        await task

    asyncio.run(story())
    assert lines(capsys)[-1]["run"] == "lab/first"


def test_kopfs_lines_about_a_run_name_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    reference = {"kind": "ResearchRun", "namespace": "lab", "name": "first"}
    logging.getLogger("kopf.objects").warning("told", extra={"k8s_ref": reference, "k8s_skip": True, "settings": 1})
    (line,) = lines(capsys)
    assert line["run"] == "lab/first"
    assert set(line) == {"time", "level", "logger", "message", "run"}


def test_a_fault_is_one_line_and_text_has_the_same_facts(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("x").exception("a pass failed")
    (line,) = lines(capsys)
    assert "ValueError: broken" in str(line["error"])
    logs.configure("warning", "text")
    with logs.about("lab/first", 3):
        logging.getLogger("x").warning("careful")
        logging.getLogger("x").info("not shown")
    text = capsys.readouterr().err
    assert text.endswith("WARNING x [lab/first #3]: careful\n")


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdef123456",
        "fetching https://me:abcdef123456@git.lab/x.git failed",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nabcdef123456\n-----END OPENSSH PRIVATE KEY-----",
    ],
)
def test_secrets_of_known_shape_are_never_shown(text: str) -> None:
    assert "abcdef123456" not in logs.redacted(text)


def test_hidden_values_are_never_shown_whole_or_by_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logs.hide("first-line-of-it\nsecond-line-of-it\n")
    logs.hide("on")
    try:
        raise ValueError("with second-line-of-it inside")
    except ValueError:
        logging.getLogger("x").exception("first-line-of-it is on")
    (line,) = lines(capsys)
    assert line["message"] == "*** is on"
    assert "second-line-of-it" not in str(line["error"])


def test_watches_that_fail_each_second_are_told_of_each_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    for _ in range(10):
        logging.getLogger("kopf._cogs.clients.watching").error("Request attempt failed; will retry")
    logging.getLogger("kopf._cogs.clients.watching").warning("something else")
    assert [line["level"] for line in lines(capsys)] == ["error", "warning"]
