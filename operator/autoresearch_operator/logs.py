"""Logs of the operator: one JSON object a line, with the run and the experiment, and never a secret."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

from pythonjsonlogger.json import JsonFormatter

_run: ContextVar[str | None] = ContextVar("run", default=None)
_experiment: ContextVar[int | None] = ContextVar("experiment", default=None)

_QUIET: Final = {
    # One line per object and event: what the operator does about it is logged by the operator itself.
    "kopf.objects": logging.WARNING,
    "kopf.activities": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    # git's command lines; at debug level they hold URLs and environment variables.
    "git": logging.INFO,
}

_WATCHES: Final = "kopf._cogs.clients.watching"
_SELDOM_SECONDS: Final = 30.0

_hidden: list[str] = []
_SHORTEST_SECRET: Final = 6
_PATTERNS: Final = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"(\w+://)[^/\s:@]*:[^/\s@]+@"), r"\1***@"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL), "***"),
)


def hide(secret: str) -> None:
    """Replaces `secret` by *** in every later line. Shorter than 6 characters it is left alone: the log would become
    unreadable, and such a value protects nothing."""
    for line in {secret.strip(), *(line.strip() for line in secret.splitlines())}:
        if len(line) >= _SHORTEST_SECRET and line not in _hidden:
            _hidden.append(line)
    # Longest first, so that one secret inside another leaves nothing of the longer one behind.
    _hidden.sort(key=len, reverse=True)


def redacted(text: str) -> str:
    """`text` without hidden values, bearer tokens, passwords in URLs and private keys."""
    for secret in _hidden:
        text = text.replace(secret, "***")
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


@contextmanager
def about(run: str, experiment: int | None = None) -> Iterator[None]:
    """Within it, every line names this run (`namespace/name`) and experiment, also from tasks started inside."""
    run_token, experiment_token = _run.set(run), _experiment.set(experiment)
    try:
        yield
    finally:
        _run.reset(run_token)
        _experiment.reset(experiment_token)


def _subject(record: logging.LogRecord) -> tuple[str | None, int | None]:
    """Run and experiment of a line: its own `extra`, else what kopf says about its object, else the context."""
    reference = getattr(record, "k8s_ref", None)
    run = getattr(record, "run", None) or _run.get()
    if run is None and isinstance(reference, dict) and reference.get("kind") == "ResearchRun":
        run = f"{reference.get('namespace')}/{reference.get('name')}"
    experiment = getattr(record, "experiment", None)
    return run, experiment if experiment is not None else _experiment.get()


class _Json(JsonFormatter):
    """`time` (RFC 3339, UTC), `level`, `logger`, `message`; `run`, `experiment` and `error` where there are any."""

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        del message_dict  # fields of a message that is a dictionary; ours are sentences
        run, experiment = _subject(record)
        log_data["time"] = _time(record)
        log_data["level"] = record.levelname.lower()
        log_data["logger"] = record.name
        log_data["message"] = redacted(record.getMessage())
        if run is not None:
            log_data["run"] = run
        if experiment is not None:
            log_data["experiment"] = experiment
        if record.exc_info:
            # The library's own may give a list of lines.
            log_data["error"] = redacted(logging.Formatter.formatException(self, record.exc_info))


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        run, experiment = _subject(record)
        subject = f" [{run}{f' #{experiment}' if experiment is not None else ''}]" if run else ""
        line = f"{_time(record)} {record.levelname:<7} {record.name}{subject}: {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redacted(line)


class _Seldom(logging.Filter):
    """Lets an error through at most each 30 s: while the API server is away, every watch fails every second."""

    def __init__(self) -> None:
        super().__init__()
        self._last = -_SELDOM_SECONDS

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR:
            return True
        if record.created - self._last < _SELDOM_SECONDS:
            return False
        self._last = record.created
        return True


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def configure(level: str = "info", form: str = "json") -> None:
    """Sends all logs of the process, kopf's too, to standard error. `level`: debug, info, warning or error; `form`:
    json or text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, quiet in _QUIET.items():
        logging.getLogger(name).setLevel(max(quiet, root.level))
    logging.getLogger(_WATCHES).filters[:] = [_Seldom()]
    logging.captureWarnings(True)
