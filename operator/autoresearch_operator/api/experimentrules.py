"""The rules of an Experiment that the API server checks, by the path of the field that they stand at.

What is final is checked at the root: a rule on `status` would not be asked when a patch sets `status: null`.
"""

from __future__ import annotations

from typing import Final

from autoresearch_operator.api.cel import Rule

_OLD_VERDICT = "has(oldSelf.status) && has(oldSelf.status.verdict)"
_SAME_LANDING = (
    "has(self.status.landedCommit) == has(oldSelf.status.landedCommit) && "
    "(!has(self.status.landedCommit) || self.status.landedCommit == oldSelf.status.landedCommit)"
)

_ROOT = (
    Rule("self.spec == oldSelf.spec", "cannot change: what was measured is what is written here", at=".spec"),
    Rule(
        "self.metadata.name.matches(r'-(0|[1-9][0-9]{0,6})$') && "
        "int(self.metadata.name.find(r'[0-9]{1,7}$')) == self.spec.number",
        "an Experiment is named <run>-<number>, so that a number exists once",
        at=".metadata.name",
    ),
    Rule(
        f"!({_OLD_VERDICT}) || (has(self.status) && has(self.status.verdict) && "
        "self.status.verdict == oldSelf.status.verdict && self.status.reason == oldSelf.status.reason && "
        f"{_SAME_LANDING})",
        "a verdict is final: verdict, reason and landedCommit cannot change",
        "'a verdict is final: it is ' + oldSelf.status.verdict + "
        "', and verdict, reason and landedCommit cannot change'",
        at=".status",
    ),
    Rule(
        "!has(oldSelf.status) || !has(oldSelf.status.trials) || oldSelf.status.trials.all(t, t.phase == 'Running' || "
        "(has(self.status) && has(self.status.trials) && self.status.trials.exists(n, n == t)))",
        "a finished trial is final: it can neither change nor be taken off the list",
        at=".status",
    ),
)

_STATUS = (
    Rule(
        "!has(self.verdict) || self.verdict != 'Accepted' || has(self.landedCommit)",
        "Accepted needs landedCommit: an edit is accepted when it is in git, not before",
        at=".verdict",
    ),
    Rule(
        "!has(self.landedCommit) || (has(self.verdict) && self.verdict == 'Accepted')",
        "is set without the verdict Accepted",
        at=".landedCommit",
    ),
    Rule(
        "has(self.verdict) == has(self.reason)",
        "a verdict has a reason, and a reason a verdict: set both or neither",
        at=".reason",
    ),
    Rule(
        "has(self.verdict) == (self.phase == 'Done')",
        "it is Done exactly when there is a verdict",
        "'is ' + self.phase + ': it is Done exactly when there is a verdict'",
        at=".phase",
    ),
)

RULES: Final[dict[str, tuple[Rule, ...]]] = {
    "": _ROOT,
    "status": _STATUS,
    "status.trials": (
        Rule(
            "self.all(t, self.exists_one(n, n.name == t.name && has(n.experiment) == has(t.experiment) && "
            "(!has(n.experiment) || n.experiment == t.experiment)))",
            "two trials have the same name: a trial is measured once",
        ),
    ),
    "status.trials[]": (
        Rule(
            "(self.phase == 'Scored') == has(self.valBPB)",
            "a trial has a score exactly when its phase is Scored",
            "'a trial has a score exactly when its phase is Scored, and it is ' + self.phase",
            at=".valBPB",
        ),
    ),
}
