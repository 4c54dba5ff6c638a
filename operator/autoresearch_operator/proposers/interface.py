"""What a proposer is asked, and what it answers. A proposer is a pure function of the request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from autoresearch_operator.api.reasons import ExperimentKind, Verdict, VerdictReason
from autoresearch_operator.proposers.edits import fingerprint
from autoresearch_operator.proposers.knobs import knob_values
from autoresearch_operator.proposers.literals import KnobValue
from autoresearch_operator.research.records import Change, ExperimentRecord


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One earlier candidate as a proposer may see it: what it was, and, once decided, what became of it."""

    number: int
    kind: ExperimentKind
    base: int
    """Number of the experiment that the edit was made on."""
    values: Mapping[str, KnobValue]
    """Every knob of the candidate, keyed "path:NAME"."""
    fingerprint: str
    changes: tuple[Change, ...] = ()
    verdict: Verdict | None = None
    """None: still pending, whatever may have been measured already."""
    reason: VerdictReason | None = None
    score: float | None = None
    """Bits per byte, lower is better; None when pending or without a score."""
    delta: float | None = None
    """Base minus candidate in bits per byte: positive is better."""

    @property
    def pending(self) -> bool:
        return self.verdict is None


@dataclass(frozen=True, slots=True)
class ProposalRequest:
    """A candidate is wanted under this number, made on `files`, the incumbent's."""

    number: int
    seed: int
    """The run's seed: with `number` and the history it fixes the answer."""
    base: int
    """Number of the experiment whose accepted commit `files` are."""
    files: Mapping[str, str]
    """Path -> text of every file that the trial gets."""
    history: Sequence[HistoryEntry] = ()
    """All decided experiments that may be seen, in order of number, the baseline first."""
    pending: Sequence[HistoryEntry] = ()
    """Experiments before this one whose outcome must not be used."""
    editable: tuple[str, ...] = ("train.py",)
    feasible: Callable[[Mapping[str, str]], bool] | None = None
    """Asked last about a candidate's files, such as by the memory preflight; None: everything is feasible."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """An edit to be measured."""

    files: Mapping[str, str]
    """All files with the edit made."""
    title: str
    """One line, such as "PEAK_LR 0.04 -> 0.03"; the subject of the commit."""
    hypothesis: str
    axis: str
    """The kind of idea, such as "learning rate": proposals in flight should differ in it."""
    changes: tuple[Change, ...]
    proposer: str


@dataclass(frozen=True, slots=True)
class Exhausted:
    """There is nothing more to propose from this base; `message` says why."""

    message: str


class Proposer(Protocol):
    """A source of candidates."""

    @property
    def name(self) -> str: ...

    def propose(self, request: ProposalRequest) -> Proposal | Exhausted: ...


@dataclass(slots=True)
class History:
    """Turns the ledger's records into what a proposer may see. `read` gives the files of a record's commit.

    Files are read once per tree; what is kept of them is the knobs and one hash, a few kilobytes a candidate.
    """

    read: Callable[[ExperimentRecord], Mapping[str, str]]
    _seen: dict[str, tuple[Mapping[str, KnobValue], str]] = field(default_factory=dict)

    def split(
        self, records: Sequence[ExperimentRecord], visible: int, before: int
    ) -> tuple[list[HistoryEntry], list[HistoryEntry]]:
        """(history, pending) for candidate `before`, which may see the verdicts of experiments up to `visible`.

        Records without a tree (refused before there was a commit) are left out.
        """
        entries = [self.entry(record, record.number <= visible) for record in records if record.number < before]
        known = [entry for entry in entries if entry is not None]
        return [entry for entry in known if not entry.pending], [entry for entry in known if entry.pending]

    def entry(self, record: ExperimentRecord, decided: bool) -> HistoryEntry | None:
        """One record as an entry; with `decided` False its outcome is withheld."""
        if not record.tree:
            return None
        if record.tree not in self._seen:
            files = self.read(record)
            self._seen[record.tree] = (knob_values(files), fingerprint(files))
        values, mark = self._seen[record.tree]
        entry = HistoryEntry(record.number, record.kind, record.base, values, mark, record.changes)
        if not decided or record.verdict is None:
            return entry
        return HistoryEntry(
            record.number,
            record.kind,
            record.base,
            values,
            mark,
            record.changes,
            record.verdict,
            record.reason,
            record.val_bpb,
            record.delta,
        )
