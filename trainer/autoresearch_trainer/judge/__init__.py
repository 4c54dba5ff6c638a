"""The trusted side of a score: reads a candidate's model as data, scores it on hidden text, and audits that it does not
peek."""

from .score import score_artifact

__all__ = ["score_artifact"]
