"""What `autoresearch operator` does: settings, logs, the process, and an exit code with a sentence."""

from __future__ import annotations

import asyncio
import logging
import sys

from autoresearch_operator import logs
from autoresearch_operator.gateways.kube_errors import KubeError, LoginError
from autoresearch_operator.handlers.assembly import Parts, real_parts
from autoresearch_operator.handlers.process import LeaseLost, operate
from autoresearch_operator.operator_settings import InvalidSettings, OperatorSettings

logger = logging.getLogger(__name__)


def serve(parts: Parts | None = None) -> int:
    """Runs until it is stopped; returns 0 then, 1 after a fault that a new start may mend, 2 for wrong settings."""
    try:
        settings = OperatorSettings.from_env()
    except InvalidSettings as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"error: {line}\n")
        return 2
    logs.configure(settings.log_level, settings.log_format)
    try:
        asyncio.run(operate(settings, parts or real_parts()))
    except LeaseLost as error:
        logger.warning("%s", error)
        return 1
    except LoginError as error:
        logger.error("%s", error)
        return 2
    except (KubeError, OSError) as error:
        logger.error("the operator ends: %s", error)
        logger.debug("where it ended", exc_info=error)
        return 1
    return 0
