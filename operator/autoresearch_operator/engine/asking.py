"""Who is asked for proposals."""

from __future__ import annotations

from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.proposers.interface import Proposer
from autoresearch_operator.proposers.search import Search


def proposers_of(spec: ResearchRunSpec) -> list[tuple[float, Proposer]]:
    """The proposers with their weights. Those that this version cannot ask (`openai`) are left out."""
    return [
        (float(proposer.weight), Search(sampler=proposer.search.sampler.value))
        for proposer in spec.proposers
        if proposer.search is not None
    ]
