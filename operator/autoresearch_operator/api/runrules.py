"""The rules of a ResearchRun that the API server checks, by the path of the field that they stand at.

Rules that look at scores stand at the root, because only there `status` is seen.
"""

from __future__ import annotations

from typing import Final

from autoresearch_operator.api.base import DURATION_PATTERN, QUANTITY_PATTERN
from autoresearch_operator.api.cel import Rule, choose, fixed, matches, pattern, quoted, same, text
from autoresearch_operator.api.trainer import ENV_BYTES, ENV_RULE, OWN_VARIABLES, OWN_VARIABLES_RULE

_FORMS: Final = "https://, ssh:// or git@host:path"
_CREDENTIALS: Final = "put credentials in secretName"
_NEW_RUN: Final = "apply a new ResearchRun with source.ref set to this run's branch"
_NEW_TIER: Final = "add a tier with a new name"
_CONTROL: Final = r"[\x00-\x1f\x7f]"
_HOST: Final = r"([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
_SCP: Final = r"^[^@/\s]+@[A-Za-z0-9][A-Za-z0-9.-]*:[^\s-]\S*$"

# --------------------------------------------------------------------------------------------------------------------
# source

_URL = Rule(
    " || ".join(
        matches(expression)
        for expression in (
            rf"^(?i:https)://{_HOST}/[^\s?#]+$",
            rf"^(?i:ssh)://([^-@/:\s?#][^@/:\s?#]*@)?{_HOST}/[^\s?#]+$",
            r"^[^-@/:\s][^@/:\s]*@[A-Za-z0-9][A-Za-z0-9.-]*:[^\s-]\S*$",
        )
    ),
    f"the URL has a form that is not taken: want {_FORMS}; {_CREDENTIALS}",
    choose(
        [
            (
                matches(rf"^-|{_CONTROL}"),
                text(f"the URL starts with a dash or holds a control character: want {_FORMS}"),
            ),
            (
                matches(r"^(/|\./|\.\./|~/)|^(\.|\.\.|~)$"),
                f"{quoted()} + {text(f' is a local path, which only local mode can read: want {_FORMS}')}",
            ),
            (matches(r"\s"), text(f"the URL has a blank in it: want {_FORMS}")),
            (
                f"{matches(r'^[A-Za-z][A-Za-z0-9+.-]*://')} && !{matches('^(?i:https|ssh)://')}",
                "'got the scheme ' + self.split('://')[0].lowerAscii() + "
                + text(f"://, want {_FORMS}; {_CREDENTIALS}"),
            ),
            (matches(r"^[A-Za-z]+://[^/?#@]*:[^/?#]*@"), text(f"the URL holds a password: {_CREDENTIALS}")),
            (
                matches(r"^(?i:https)://[^/?#]*@"),
                text(f"the URL holds a user name or a token: {_CREDENTIALS}"),
            ),
            (
                f"self.contains('://') && !{matches(rf'^[A-Za-z]+://([^-/?#][^/?#]*@)?{_HOST}([/?#]|$)')}",
                text("the URL names no host that can be used"),
            ),
            (matches(r"^[A-Za-z]+://[^/?#]*/?([?#]|$)"), text("the URL names no repository after the host")),
            (
                "self.contains('://')",
                text(f'the URL goes on after the repository\'s path ("?" or "#"): {_CREDENTIALS}'),
            ),
            (matches(_SCP), text(f"the URL holds a password: {_CREDENTIALS}")),
            (
                matches(r"^[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+/"),
                f"{quoted()} + ' has no scheme: write https://' + self",
            ),
        ],
        text(f"the URL has a form that is not taken: want {_FORMS}; {_CREDENTIALS}"),
    ),
)

_REF_REFUSED = r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|(^|/)\.|\.lock(/|$)|^[-/]|[/.]$|^@$"
_REF = Rule(
    f"!{matches(_REF_REFUSED)}",
    "is not a name that git takes",
    choose(
        [(matches(_CONTROL), text("has a control character in it, which git does not take"))],
        f"{quoted()} + ' is not a name that git takes (\"' + self.find({pattern(_REF_REFUSED)}) + '\")'",
    ),
)

_PATH_CASES = [
    (matches(_CONTROL), text("has a control character in it")),
    (
        matches(r"^[/~]|^[A-Za-z]:"),
        f"{quoted()} + {text(' is absolute: give the path from the top of the repository or claim')}",
    ),
    (matches(r"(^|/)\.\.(/|$)"), f"{quoted()} + ' has \"..\": give a path that stays inside'"),
]
_NOT_SHORTEST = f"{quoted()} + " + text(' is not the shortest spelling: write it without ".", "\\", "//" or a last "/"')
_BAD_PATH = rf"{_CONTROL}|^[/~]|^[A-Za-z]:|(^|/)\.?\.?(/|$)|\\"

RELATIVE_PATH = Rule(
    f"!{matches(_BAD_PATH)}",
    "is not a relative path in its shortest spelling",
    choose(_PATH_CASES, _NOT_SHORTEST),
)
_GIT_FOLDER = r"^(\./+)*\.git(/|$)"
_EDITABLE = Rule(
    f"!{matches(_BAD_PATH)} && self != 'prepare.py' && !{matches(_GIT_FOLDER)}",
    "is not a file that can be edited",
    choose(
        [
            (
                matches(r"^(\./+)*prepare\.py$"),
                text("prepare.py belongs to the judge and cannot be edited: take it off the list"),
            ),
            (
                matches(_GIT_FOLDER),
                f"{quoted()} + {text(' is git' + chr(39) + 's own: take it off the list')}",
            ),
            *_PATH_CASES,
        ],
        _NOT_SHORTEST,
    ),
)

_SOURCE = (
    *(fixed(field, _NEW_RUN) for field in ("url", "template", "ref", "branch", "editablePaths")),
    Rule("!has(self.url) || !has(self.template)", "is set beside url: keep one of them", at=".template"),
    Rule(
        "has(self.url) || self.ref == 'HEAD'",
        "is set without url: a built-in template has one version; remove it, or set url",
        at=".ref",
    ),
    Rule(
        "!has(self.branch) || !self.branch.startsWith('refs/')",
        "is a full ref: write the branch's name alone",
        f"{quoted('self.branch')} + {text(' is a full ref: write the branch' + chr(39) + 's name alone')}",
        at=".branch",
    ),
    Rule(
        "!has(self.branch) || (self.branch != self.ref && 'refs/heads/' + self.branch != self.ref)",
        "is the same as ref: accepted edits go to a branch of their own; choose another name",
        at=".branch",
    ),
)

# --------------------------------------------------------------------------------------------------------------------
# proposers and trainer

_PROPOSER = Rule(
    "has(self.search) != has(self.openai)",
    "want exactly one of search and openai; the built-in search is `search: {}`",
    "'want exactly one of search and openai, and ' + (has(self.search) ? 'both are' : 'neither is') + "
    "' set; the built-in search is `search: {}`'",
)
_BASE_URL = Rule(
    matches(rf"^https?://{_HOST}(/[^\s?#]*)?$"),
    "is not a URL that starts with http:// or https://",
    choose(
        [
            (matches(_CONTROL), text("the URL holds a control character")),
            (matches(r"^[A-Za-z]+://[^/?#]*@"), text(f"the URL holds a password: {_CREDENTIALS}")),
            (
                f"!{matches(rf'^https?://{_HOST}([/?#]|$)')}",
                f"{quoted()} + ' is not a URL that starts with http:// or https://'",
            ),
        ],
        text(f'the URL goes on after its path ("?", "#" or a blank): {_CREDENTIALS}'),
    ),
)
_DATA_MEND = "the gate would serve what the judge scores; keep the two folders apart"
_DATA = (
    Rule(
        "self.trainPath != self.valPath && !self.valPath.startsWith(self.trainPath + '/')",
        f"lies inside trainPath: {_DATA_MEND}",
        "(self.trainPath == self.valPath ? 'is the same folder as' : 'lies inside') + "
        + text(f" trainPath: {_DATA_MEND}"),
        at=".valPath",
    ),
    Rule("!self.trainPath.startsWith(self.valPath + '/')", f"lies inside valPath: {_DATA_MEND}", at=".trainPath"),
)


def _length(value: str, low: str, high: str, want: str, *, at: str = "") -> Rule:
    """A duration in its form and within its bounds; the form is checked first, or `duration()` would fail."""
    return Rule(
        f"{matches(DURATION_PATTERN, value)} && duration({value}) >= duration('{low}') && "
        f"duration({value}) <= duration('{high}')",
        f"want {want}",
        f"'got ' + {quoted(value)} + {text(f', want {want}')}",
        at=at,
    )


def _amount(low: str, high: str, want: str) -> Rule:
    """A quantity in its form and within its bounds."""
    seen = "string(self)"
    return Rule(
        f"{matches(QUANTITY_PATTERN, seen)} && quantity({seen}).compareTo(quantity('{low}')) >= 0 && "
        f"quantity({seen}).compareTo(quantity('{high}')) <= 0",
        f"want {want}",
        f"'got ' + {seen} + {text(f', want {want}')}",
    )


_BYTES = _amount("1M", "1Pi", "a quantity of bytes such as 64Gi; at least 1M and at most 1Pi")
_CORES = _amount("10m", "1024", "a number of CPU cores such as 8 or 500m; between 10m and 1024")

# --------------------------------------------------------------------------------------------------------------------
# tiers, limits and the whole spec

# Five minutes are the default of a tier without a budget, so writing them out is no change.
_SECONDS = "(has({0}.budget) ? (has({0}.budget.seconds) ? {0}.budget.seconds : 0.0) : {0}.gpus > 0 ? 300.0 : 0.0)"
_CPU_SECONDS = (
    "(has({0}.budget) ? (has({0}.budget.cpuSeconds) ? {0}.budget.cpuSeconds : 0.0) : {0}.gpus > 0 ? 0.0 : 300.0)"
)
_STEPS = "(has({0}.budget) && has({0}.budget.steps) ? {0}.budget.steps : 0)"
_TIER = (
    *(fixed(field, _NEW_TIER) for field in ("gpus", "resourceName", "product")),
    Rule(
        " && ".join(f"{part.format('self')} == {part.format('oldSelf')}" for part in (_SECONDS, _CPU_SECONDS, _STEPS)),
        f"cannot change: {_NEW_TIER}",
        at=".budget",
    ),
    Rule(
        "!self.resourceName.endsWith('.shared')",
        "is a shared GPU, and a neighbour would move the scores: want a whole GPU or MIG",
        f"{quoted('self.resourceName')} + "
        + text(" is a shared GPU, and a neighbour would move the scores: want a whole GPU or MIG"),
        at=".resourceName",
    ),
)
_GIVEN = "[has(self.seconds), has(self.cpuSeconds), has(self.steps)].filter(given, given)"
_BUDGET = Rule(
    f"size({_GIVEN}) == 1",
    "want exactly one of seconds, cpuSeconds and steps",
    "'want exactly one of seconds, cpuSeconds and steps, and ' + "
    f"(size({_GIVEN}) == 0 ? 'none is' : size({_GIVEN}) == 2 ? '2 are' : '3 are') + ' set'",
)


def _missing_prices() -> str:
    """CEL for ` and PATH and PATH …`. Written out, because the server cannot bound what `string(i)` and `join` give."""
    parts = []
    for i in range(8):
        tier = f"size(self.tiers) > {i} && self.tiers[{i}].gpus > 0 && !has(self.tiers[{i}].pricePerGPUHour)"
        parts.append(f"({tier} ? ' and spec.tiers[{i}].pricePerGPUHour' : '')")
    for i in range(8):
        spec = f"self.proposers[{i}].openai"
        proposer = f"size(self.proposers) > {i} && has({spec}) && !has({spec}.pricePerMillionTokens)"
        parts.append(f"({proposer} ? ' and spec.proposers[{i}].openai.pricePerMillionTokens' : '')")
    return " + ".join(parts)


_SPEC = (
    Rule(
        "!has(self.limits.dollars) || (self.tiers.all(t, t.gpus == 0 || has(t.pricePerGPUHour)) && "
        "self.proposers.all(p, !has(p.openai) || has(p.openai.pricePerMillionTokens)))",
        "needs every price: set pricePerGPUHour of every tier with GPUs and pricePerMillionTokens of every model "
        "(0 for GPUs you own)",
        f"'needs every price: set' + ({_missing_prices()}).substring(4) + ' (0 for GPUs you own)'",
        at=".limits.dollars",
    ),
    Rule(
        f"({same('queueName')}) || oldSelf.suspend",
        "cannot change while the run goes on: set suspend: true, change queueName, then set suspend: false",
        at=".queueName",
    ),
)

# --------------------------------------------------------------------------------------------------------------------
# the root: what needs metadata or status

_UNSCORED = "!has(oldSelf.status) || !has(oldSelf.status.tiers)"
_ROOT = (
    Rule(
        "size(self.metadata.name) <= 40",
        "want at most 40 characters, because Job names derived from it must fit in 63",
        f"{quoted('self.metadata.name')} + "
        + text(" is too long: want at most 40 characters, because Job names derived from it must fit in 63"),
        at=".metadata.name",
    ),
    Rule(
        "!self.metadata.name.contains('.')",
        'want a name of a-z, 0-9 and "-", without a dot',
        f"{quoted('self.metadata.name')} + ' has a dot in it; write ' + self.metadata.name.replace('.', '-')",
        at=".metadata.name",
    ),
    Rule(
        f"{_UNSCORED} || !oldSelf.status.tiers.exists(s, has(s.baseline)) || self.spec.trainer == oldSelf.spec.trainer",
        f"cannot change while the run has scores, because old and new ones would not compare: {_NEW_RUN}",
        at=".spec.trainer",
    ),
    Rule(
        f"{_UNSCORED} || oldSelf.status.tiers.all(s, !has(s.baseline) || self.spec.tiers.exists(t, t.name == s.name))",
        "a tier that holds scores cannot be removed: set its maxParallel to 0",
        at=".spec.tiers",
    ),
    Rule(
        f"{_UNSCORED} || [0, 1, 2, 3, 4, 5, 6, 7].all(i, i >= size(oldSelf.spec.tiers) || "
        "!oldSelf.status.tiers.exists(s, has(s.baseline) && s.name == oldSelf.spec.tiers[i].name) || "
        "!self.spec.tiers.exists(t, t.name == oldSelf.spec.tiers[i].name) || "
        "(i < size(self.spec.tiers) && self.spec.tiers[i].name == oldSelf.spec.tiers[i].name))",
        "a tier that holds scores keeps its place, because the order is that of promotion: put new tiers after it",
        at=".spec.tiers",
    ),
)

_NO_NUL = Rule(r"!self.contains('\u0000')", "has a NUL character in it, which ends a string of the operating system")

RULES: Final[dict[str, tuple[Rule, ...]]] = {
    "": _ROOT,
    "spec": _SPEC,
    "spec.source": _SOURCE,
    "spec.source.url": (_URL,),
    "spec.source.ref": (_REF,),
    "spec.source.branch": (_REF,),
    "spec.source.editablePaths": (
        Rule("self.all(p, self.exists_one(q, q == p))", "names a file twice: keep each once"),
    ),
    "spec.source.editablePaths[]": (_EDITABLE,),
    "spec.source.program": (RELATIVE_PATH,),
    "spec.proposers[]": (_PROPOSER,),
    "spec.proposers[].openai.baseURL": (_BASE_URL,),
    "spec.trainer": (
        Rule(
            "!has(self.image) || self.evaluation != 'Verified' || has(self.data)",
            "is missing: only the chart's own image holds the demo corpus; set data, or evaluation: SelfReported",
            at=".data",
        ),
    ),
    "spec.trainer.env": (
        Rule(f"self.map(e, size(bytes(e.name)) + size(bytes(e.value))).sum() <= {ENV_BYTES}", ENV_RULE),
    ),
    "spec.trainer.env[].name": (
        Rule(
            " && ".join(f"!self.startsWith('{prefix}')" for prefix in OWN_VARIABLES),
            OWN_VARIABLES_RULE,
            f"{quoted()} + " + text(f" {OWN_VARIABLES_RULE}"),
        ),
    ),
    "spec.trainer.env[].value": (_NO_NUL,),
    "spec.trainer.command[]": (_NO_NUL,),
    "spec.trainer.startup": (_length("self", "1s", "6h", "a duration such as 3m or 1h30m; between 1s and 6h"),),
    "spec.trainer.data": _DATA,
    "spec.trainer.data.trainPath": (RELATIVE_PATH,),
    "spec.trainer.data.valPath": (RELATIVE_PATH,),
    "spec.trainer.resources.cpu": (_CORES,),
    "spec.trainer.resources.memory": (_BYTES,),
    "spec.trainer.resources.ephemeralStorage": (_BYTES,),
    "spec.tiers[]": _TIER,
    "spec.tiers[].budget": (_BUDGET,),
    "spec.tiers[].maxVRAM": (_BYTES,),
    "spec.acceptance.looks": (
        Rule(
            "[1, 2, 3].all(i, i >= size(self) || self[i] > self[i - 1])",
            "does not grow: each look needs more runs than the one before",
        ),
    ),
    "spec.limits.duration": (_length("self", "1s", "8760h", "a duration such as 8h or 1h30m; between 1s and 8760h"),),
}
