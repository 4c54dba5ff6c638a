"""The space that search moves in: the knobs of the incumbent's editable files, around their present values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from autoresearch_operator.api.reasons import ExperimentKind, VerdictReason
from autoresearch_operator.proposers.domains import Choices, Domain, Range
from autoresearch_operator.proposers.edits import fingerprint
from autoresearch_operator.proposers.interface import HistoryEntry, Proposal, ProposalRequest
from autoresearch_operator.proposers.knobs import Knob, KnobSet, read_knobs, splice_literals
from autoresearch_operator.proposers.literals import KnobValue, format_literal, same_value
from autoresearch_operator.proposers.roles import Role, role_of
from autoresearch_operator.research.records import Change

_SNAP_TRIES = 64


@dataclass(frozen=True)
class Space:
    """Searchable knobs keyed "path:NAME", and the way from a set of values to a proposal."""

    request: ProposalRequest
    proposer: str

    @cached_property
    def files(self) -> dict[str, KnobSet]:
        """The knobs of every editable Python file. Raises KnobError for a wrong comment or broken file."""
        return {
            path: read_knobs(self.request.files[path], path)
            for path in self.request.editable
            if path.endswith(".py") and path in self.request.files
        }

    @cached_property
    def knobs(self) -> dict[str, Knob]:
        return {
            f"{path}:{name}": knob
            for path, found in self.files.items()
            for name, knob in found.knobs.items()
            if knob.domain is not None
        }

    @cached_property
    def domains(self) -> dict[str, Domain]:
        return {key: knob.domain for key, knob in self.knobs.items() if knob.domain is not None}

    @cached_property
    def seen(self) -> frozenset[str]:
        """Fingerprints of everything that was, or is being, measured."""
        earlier = {entry.fingerprint for entry in (*self.request.history, *self.request.pending)}
        return frozenset(earlier | {fingerprint(self.request.files)})

    @cached_property
    def in_flight(self) -> frozenset[str]:
        """Knobs that a pending candidate changes, or one that waits to be put on a newer incumbent."""
        waiting = {entry.number: entry for entry in self.request.history if entry.reason is VerdictReason.SUPERSEDED}
        for entry in self.request.history:
            # A rebase names its sources through its changes alone here: the same knobs, decided later.
            if entry.kind is ExperimentKind.COMBINATION and entry.reason is not VerdictReason.SUPERSEDED:
                made = {(change.path, change.name, change.after) for change in entry.changes}
                for number, source in list(waiting.items()):
                    wanted = {(change.path, change.name, change.after) for change in source.changes}
                    if number < entry.number and made <= wanted:
                        del waiting[number]
        entries = (*self.request.pending, *waiting.values())
        return frozenset(f"{change.path}:{change.name}" for entry in entries for change in entry.changes)

    @cached_property
    def single_changes(self) -> dict[str, list[HistoryEntry]]:
        """Decided candidates that changed one knob and nothing else, by that knob."""
        found: dict[str, list[HistoryEntry]] = {}
        for entry in self.request.history:
            if len(entry.changes) == 1:
                key = f"{entry.changes[0].path}:{entry.changes[0].name}"
                if key in entry.values:
                    found.setdefault(key, []).append(entry)
        return found

    def value(self, key: str) -> KnobValue:
        return self.knobs[key].value

    def role(self, key: str) -> Role:
        return role_of(self.knobs[key].name)

    def inactive(self, key: str) -> bool:
        """Whether the name says that the knob belongs to a choice not taken: MUON_LR while OPTIMIZER is AdamW."""
        words = {word for word in self.knobs[key].name.lower().split("_") if len(word) > 2}
        for other, domain in self.domains.items():
            if other != key and isinstance(domain, Choices) and isinstance(self.value(other), str):
                named = words & {str(choice).lower() for choice in domain.values}
                if named and str(self.value(other)).lower() not in named:
                    return True
        return False

    def allowed(self, values: Mapping[str, KnobValue]) -> bool:
        """Whether the script's own `# require:` conditions hold with `values` put in."""
        for path, found in self.files.items():
            prefix = f"{path}:"
            local = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
            if local and found.violations(local):
                return False
        return True

    def snap(self, key: str, value: KnobValue, others: Mapping[str, KnobValue]) -> KnobValue | None:
        """The allowed value of `key` nearest to `value` (whole numbers only; None when there is none near).

        A value on the other side of the present one, or the present one itself, is another idea and is not given.
        """
        if self.allowed({**others, key: value}):
            return value
        domain, present = self.domains[key], self.value(key)
        if not isinstance(domain, Range) or not domain.integer or not isinstance(value, int):
            return None
        for distance in range(1, _SNAP_TRIES):
            for near in (value + distance * domain.step, value - distance * domain.step):
                same_side = isinstance(present, int | float) and (near - present) * (value - present) > 0
                if same_side and domain.low <= near <= domain.high and self.allowed({**others, key: near}):
                    return near
        return None

    def proposal(self, values: Mapping[str, KnobValue], title: str = "", hypothesis: str = "") -> Proposal | None:
        """The candidate with `values` put in; None when it breaks a condition, was seen before or is infeasible."""
        changed = {key: value for key, value in values.items() if not same_value(value, self.value(key))}
        if not changed or not self.allowed(changed):
            return None
        files, made = dict(self.request.files), []
        for path in self.files:
            local = {
                knob.name: format_literal(changed[key], knob.literal)
                for name, knob in self.files[path].knobs.items()
                if (key := f"{path}:{name}") in changed
            }
            files[path] = splice_literals(files[path], local, path)
            made += [Change(path, name, self.files[path].knobs[name].literal, after) for name, after in local.items()]
        if fingerprint(files) in self.seen or (self.request.feasible and not self.request.feasible(files)):
            return None
        keys = [f"{change.path}:{change.name}" for change in made]
        return Proposal(
            files,
            title or ", ".join(f"{change.name} {change.before} -> {change.after}" for change in made),
            hypothesis or " ".join(dict.fromkeys(self.why(key, changed[key]) for key in keys)),
            " and ".join(dict.fromkeys(self.role(key).axis for key in keys)),
            tuple(made),
            self.proposer,
        )

    def why(self, key: str, value: KnobValue) -> str:
        """One sentence for the commit: why this change may help."""
        present, role = self.value(key), self.role(key)
        if isinstance(value, int | float) and isinstance(present, int | float) and value < present:
            return role.why_down
        return role.why_up


def position(domain: Domain, value: KnobValue) -> float:
    """Where a value lies in its domain, 0..1; choices are spread evenly in the author's order."""
    if isinstance(domain, Range):
        return domain.unit(value) if isinstance(value, int | float) else 0.0
    index = domain.index(value)
    return 0.0 if index is None or len(domain.values) < 2 else index / (len(domain.values) - 1)


def is_ordered(domain: Domain) -> bool:
    """Whether the values have a natural order: ranges, and choices that are all numbers."""
    return isinstance(domain, Range) or all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in domain.values
    )
