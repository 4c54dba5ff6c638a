"""The operator's real process with a controller that only tells what it was shown: one JSON line for each pass.

Run as a program by test_operator_process.py and bench_operator_start.py. `TAKES` (seconds) makes each pass so long.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

from autoresearch_operator.cluster.seen import Cluster, Key, Seen
from autoresearch_operator.handlers.assembly import Parts, Work
from autoresearch_operator.handlers.command import serve
from autoresearch_operator.operator_settings import OperatorSettings


def tell(**facts: Any) -> None:
    sys.stdout.write(json.dumps({"time": time.time(), "pid": os.getpid(), **facts}) + "\n")
    sys.stdout.flush()


class Recorder:
    """Stands where the controller stands."""

    async def reconcile(self, key: Key, seen: Seen) -> float | None:
        tell(
            event="begin",
            key="/".join(key),
            run=None if seen.run is None else dict(seen.run),
            experiments=len(seen.experiments),
            jobs=sorted(seen.jobs),
            pods=sorted(seen.pods),
            config_maps=sorted(seen.config_maps),
        )
        await asyncio.sleep(float(os.environ.get("TAKES", "0")))
        tell(event="end", key="/".join(key))
        return None

    async def close(self) -> None:
        tell(event="close")


def work(_cluster: Cluster, _settings: OperatorSettings) -> Work:
    return Work(controller=Recorder())


if __name__ == "__main__":
    sys.exit(serve(Parts(work=work)))
