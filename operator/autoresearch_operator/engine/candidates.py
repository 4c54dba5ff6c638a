"""Makes the candidates that a plan wants: asks a proposer, puts edits together or takes one out; each is a commit."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch_operator.api.reasons import ExperimentKind, VerdictReason
from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.engine.sources import Sources
from autoresearch_operator.proposers.checks import check
from autoresearch_operator.proposers.edits import Conflict, changes, fingerprint, merge
from autoresearch_operator.proposers.interface import Exhausted, History, Proposal, ProposalRequest, Proposer
from autoresearch_operator.research.records import CandidateWanted, ExperimentRecord

Files = Mapping[str, str]


@dataclass(frozen=True)
class Edit:
    """A candidate before it has a commit."""

    files: Files
    title: str
    hypothesis: str = ""
    proposer: str = "planner"
    refused: tuple[VerdictReason, str] | None = None


class CandidateMaker:
    """Turns `CandidateWanted` into recorded experiments. The answer follows from the run's seed, the number and what
    the plan lets the proposer see, so a candidate that was lost in a crash comes back the same."""

    def __init__(
        self, spec: ResearchRunSpec, sources: Sources, proposers: Sequence[tuple[float, Proposer]], seed: int
    ) -> None:
        self._spec = spec
        self._sources = sources
        self._proposers = proposers
        self._seed = seed
        self._history = History(sources.files)

    def make(self, wanted: CandidateWanted, experiments: Sequence[ExperimentRecord]) -> ExperimentRecord | None:
        """The experiment under that number, its commit written but on no ref yet; None: proposers are exhausted."""
        base = experiments[wanted.base] if experiments else None
        if base is None:
            return self._baseline()
        match wanted.kind:
            case ExperimentKind.COMBINATION:
                edit = self._combine(wanted, experiments)
            case ExperimentKind.ABLATION:
                edit = self._ablate(wanted, experiments)
            case _:
                proposed = self._propose(wanted, experiments)
                if proposed is None:
                    return None
                edit = proposed
        return self._record(wanted, base, edit)

    def _baseline(self) -> ExperimentRecord:
        return ExperimentRecord(
            number=0,
            kind=ExperimentKind.BASELINE,
            commit=self._sources.commit,
            tree=self._sources.tree,
            base=0,
            title="the unedited source",
            proposer="source",
            landed_commit=self._sources.commit,
            created_at=self._sources.time_of(0),
        )

    def _record(self, wanted: CandidateWanted, base: ExperimentRecord, edit: Edit) -> ExperimentRecord:
        before = self._sources.files(base)
        refused = edit.refused or self._check(before, edit.files, wanted)
        created = self._sources.time_of(wanted.number)
        changed = {path: text for path, text in edit.files.items() if before.get(path) != text}
        message = f"{edit.title}\n\nCandidate {wanted.number}: not accepted unless it is on the run's branch.\n"
        commit, tree = self._sources.write(base, changed, message, created)
        return ExperimentRecord(
            number=wanted.number,
            kind=wanted.kind,
            commit=commit,
            tree=tree,
            base=wanted.base,
            title=edit.title,
            proposer=edit.proposer,
            hypothesis=edit.hypothesis,
            changes=changes(before, edit.files),
            sources=wanted.sources,
            refused=refused,
            created_at=created,
        )

    def _check(self, before: Files, after: Files, wanted: CandidateWanted) -> tuple[VerdictReason, str] | None:
        if wanted.kind is ExperimentKind.ABLATION:
            return None
        if fingerprint(before) == fingerprint(after):
            return VerdictReason.DUPLICATE, "the edit changes nothing that runs"
        refusals = [found for found in check(before, after, self._spec.source.editable_paths) if not found.warning]
        if not refusals:
            return None
        first = refusals[0]
        return first.reason, f"{first.detail}: {first.message}" if first.detail else first.message

    # Kinds of candidates ---------------------------------------------------------------------------------------------

    def _propose(self, wanted: CandidateWanted, experiments: Sequence[ExperimentRecord]) -> Edit | None:
        history, pending = self._history.split(experiments, wanted.visible, wanted.number)
        request = ProposalRequest(
            number=wanted.number,
            seed=self._seed,
            base=wanted.base,
            files=self._sources.files(experiments[wanted.base]),
            history=history,
            pending=pending,
            editable=self._spec.source.editable_paths,
        )
        for proposer in self._order(wanted.number):
            match proposer.propose(request):
                case Proposal() as proposal:
                    return Edit(proposal.files, proposal.title, proposal.hypothesis, proposal.proposer)
                case Exhausted():
                    continue
        return None

    def _order(self, number: int) -> list[Proposer]:
        """The proposers, the one whose turn it is by weight first; the others step in when it is exhausted."""
        draw = random.Random(f"{self._seed}/{number}/proposer")
        chosen = draw.choices(range(len(self._proposers)), [weight for weight, _ in self._proposers])[0]
        order = [chosen, *(index for index in range(len(self._proposers)) if index != chosen)]
        return [self._proposers[index][1] for index in order]

    def _combine(self, wanted: CandidateWanted, experiments: Sequence[ExperimentRecord]) -> Edit:
        """The edits of `sources`, one after the other, on the base."""
        base = self._sources.files(experiments[wanted.base])
        files: Files = base
        sources = [experiments[number] for number in wanted.sources]
        title = " + ".join(source.title for source in sources)
        for source in sources:
            merged = merge(self._sources.files(experiments[source.base]), files, self._sources.files(source))
            if isinstance(merged, Conflict):
                message = f"the edit of experiment {source.number} does not apply any more: {merged.message}"
                return Edit(base, title, refused=(VerdictReason.REBASE_CONFLICT, message))
            files = merged
        numbers = ", ".join(str(source.number) for source in sources)
        hypothesis = (
            f"Experiment {numbers} was better than an older incumbent; measured again on the new one."
            if len(sources) == 1
            else f"Experiments {numbers} were each a little better, and touch different places."
        )
        return Edit(files, title, hypothesis)

    def _ablate(self, wanted: CandidateWanted, experiments: Sequence[ExperimentRecord]) -> Edit:
        """The base (the head) without the edit of one accepted experiment."""
        head = self._sources.files(experiments[wanted.base])
        source = experiments[wanted.sources[0]]
        title = f"without: {source.title}"
        merged = merge(self._sources.files(source), head, self._sources.files(experiments[source.base]))
        if isinstance(merged, Conflict):
            message = f"a later edit builds on it, so it cannot be taken out by itself: {merged.message}"
            return Edit(head, title, refused=(VerdictReason.REBASE_CONFLICT, message))
        return Edit(merged, title, f"Shows what experiment {source.number} is still worth in the head.")
