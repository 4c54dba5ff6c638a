"""How the controller paces its work. The chart does not offer these: each has one good value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of one controller."""

    keep_experiments: int = 200
    """Decided Experiments of a run that stay in the cluster, the newest; older ones are in git. The baseline and
    accepted ones always stay. Default 200: more than a person scrolls through, and about 1 MiB in etcd."""
    status_interval: float = 10.0
    """Seconds between two writes of one run's status, when nothing of importance changed. Default 10: a person who
    watches sees it move, and 50 runs write 5 times a second."""
    progress_after: float = 30.0
    """Seconds that an experiment's first trial has to run before its phase is written. Default 30: shorter trials end
    before anybody has read it, and the write would be a fifth of all."""
    parallel_writes: int = 16
    """Requests of one run that are under way at once. Default 16, so that a run with many slots fills them in two or
    three round trips and leaves room for other runs."""
    candidates_at_once: int = 8
    """Candidates that are made before free slots are looked at again. Default 8: about a second of proposing."""
    volume_retry: float = 10.0
    """Seconds until a full or failing volume is tried again."""
    lost_job_after: float = 5.0
    """Seconds that a Job of ours may be missing from what the watches show before it is asked for by name. Default 5:
    a watch is behind by milliseconds, and a restarted one by a second or two."""
    silent_job_after: float = 5.0
    """Seconds that a Job may be without a pod before its Events are read for the reason."""
    nodes_readable: bool = False
    """Whether nodes may be listed (`AUTORESEARCH_NODES_READABLE`); without it nothing is said about them."""
