"""One function builds each name and each seed; nobody else does."""

from __future__ import annotations

import hashlib

from autoresearch_operator.api import source
from autoresearch_operator.research.records import Purpose, TrialKey

_FIRST_INDEX = {
    Purpose.BASELINE: 0,
    Purpose.SCREEN: 0,
    Purpose.CONFIRM: 8,
    Purpose.REFERENCE: 8,
    Purpose.REFRESH: 40,
    Purpose.FINAL: 48,
}
SEEDS_PER_SUBJECT = 64


def trial_seed(purpose: Purpose, subject: int, index: int) -> int:
    """The seed number of the `index`-th run of `purpose` that helps to decide experiment `subject`.

    CONFIRM and REFERENCE runs of one index share a seed, every other pair of runs differs. FINAL runs of one
    index share a seed across baseline, head and ablations when `subject` is given as 0 by the caller.
    """
    return subject * SEEDS_PER_SUBJECT + _FIRST_INDEX[purpose] + index


def random_seed(run_seed: int, trial_seed_number: int) -> int:
    """The 31-bit seed given to the trainer: initial weights and data order follow from it alone."""
    digest = hashlib.sha256(f"{run_seed}/{trial_seed_number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFF_FFFF


def trial_name(tier: str, key: TrialKey) -> str:
    """A trial's name within its experiment, such as `h100-s1-a1`."""
    return f"{tier}-s{key.seed}-a{key.attempt}"


def ledger_ref(namespace: str, name: str) -> str:
    """The git ref that holds a run's record.

    It ends in /ledger so that `git log autoresearch/<namespace>-<name>` means the branch: git tries refs/<word>
    before refs/heads/<word>.
    """
    return f"refs/autoresearch/{namespace}-{name}/ledger"


def default_branch(namespace: str, name: str) -> str:
    """The branch that accepted edits go to when spec.source.branch is not set."""
    return source.default_branch(namespace, name)
