"""`python -m autoresearch_trainer judge`: scores the artifact and writes the trial's result for the kubelet.

No candidate code runs here. The model is data, and is read in a process of its own behind walls (judging.py).
"""

import os
import signal
import sys
import time
from pathlib import Path

from .. import hardware, judging
from ..clock import wall
from ..data.errors import DataError
from ..fields import SpecError
from ..receiver import stream_sha256
from ..result import LOST, TrialResult, encode
from . import draft as drafts
from . import spec as specs
from .draft import Draft, DraftError
from .places import Places, data_dir

ACCOUNT_SECONDS = 60.0
"""How long the gate may take over its account once train has ended; it is there a moment later, or never."""
_POLL_SECONDS = 0.05


def main() -> int:
    """Writes the result; 0 when it is written, 1 when the termination log cannot be written."""
    # The first process of a container ignores SIGTERM unless it says otherwise, and would hold the GPU for all of the
    # grace period of a pod that is being deleted.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    places, began = Places.of(), wall()
    result = TrialResult(outcome=LOST)
    try:
        terms = specs.from_environment()
        result.split, result.seed, result.self_reported = terms.split, terms.seed, terms.self_reported
        draft = _await_draft(places)
        result, began = draft.result, draft.began
        if not result.hardware:
            result.hardware = hardware.describe(terms.device, hardware.GPUs())
        if draft.to_judge:
            _judge(terms, places, result)
    except SpecError as error:
        result.lose("Spec", str(error))
    except DraftError as error:
        result.lose("Account", f"{error}.")
    except _NoAccount as error:
        result.lose("NoAccount", str(error))
    except DataError as error:
        result.lose("Data", str(error))
    except OSError as error:
        result.lose("OSError", f"judge: {type(error).__name__}: {error}")
    result.total_seconds = wall() - began
    return _write(places.termination_log, result)


class _NoAccount(Exception):
    pass


def _await_draft(places: Places) -> Draft:
    give_up = wall() + ACCOUNT_SECONDS
    while True:
        draft = drafts.read(places.account)
        if draft is not None:
            return draft
        if wall() > give_up:
            raise _NoAccount(f"The gate left no account within {ACCOUNT_SECONDS:g} s: it was killed.")
        time.sleep(_POLL_SECONDS)


def _judge(terms: specs.PodTerms, places: Places, result: TrialResult) -> None:
    found = stream_sha256(places.artifact)
    if found != result.artifact_sha256:
        result.lose("Artifact", "The artifact on disk is not the one that the gate took in: its SHA-256 differs.")
        return
    judging.conclude(result, terms, data_dir(), places.artifact, lambda: None)


def _write(path: Path, result: TrialResult) -> int:
    document = encode(result.as_json())
    try:
        path.write_bytes(document)
    except OSError as error:
        print(f"{path} cannot be written: {error}", file=sys.stderr)
        return 1
    print(document.decode())  # for kubectl logs
    return 0
