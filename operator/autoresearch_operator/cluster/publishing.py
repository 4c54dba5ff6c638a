"""Keeping a run's remote branch and ledger up to what the volume holds: never by force, never faster than agreed.

One conversation looks where the server's refs are, takes over what a person added to the branch, and pushes branch
and ledger in one atomic push, each only from where it was seen. What a crash or a lost answer leaves half done is
done again with the same commits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from autoresearch_operator.api.reasons import BranchUpdatedReason
from autoresearch_operator.cluster.credentials import SecretNotAllowed, address
from autoresearch_operator.cluster.seen import KubeError
from autoresearch_operator.gateways.errors import GitError, Outcome, Result, StorageFull
from autoresearch_operator.gateways.git import Change, Repository
from autoresearch_operator.gateways.landing import Foreign, join
from autoresearch_operator.gateways.process import Access
from autoresearch_operator.gateways.publish import SEEN, foreign_owner
from autoresearch_operator.gateways.remote import Remote

PUSH_SECONDS = 10.0
"""Between two conversations with one repository on a server: at most 6 a minute, as agreed with whoever runs it."""
LEDGER_SECONDS = 60.0
"""Between two pushes that bring no accepted edit, only records: those are on the volume already."""
LOOK_SECONDS = 300.0
"""Between two looks at a server when there is nothing to push, for a person's commits to be noticed."""
AGAIN_SECONDS = 60.0
"""After what only a person can change: a refused push, a diverged branch, a wrong password."""
LONGEST_SECONDS = 300.0
"""The longest pause after a server did not answer; the first is PUSH_SECONDS, each next one twice as long."""
OBJECTS = 5_000
"""Loose objects that are put into a pack at the next quiet moment: 500 candidates."""

_MESSAGE = 1024
"""Characters of a condition's message."""
_REASONS = {
    Outcome.PUSHED: BranchUpdatedReason.UP_TO_DATE,
    Outcome.DIVERGED: BranchUpdatedReason.DIVERGED,
    Outcome.REJECTED: BranchUpdatedReason.PUSH_REJECTED,
    Outcome.CREDENTIALS: BranchUpdatedReason.CREDENTIALS_REJECTED,
    Outcome.BRANCH_IN_USE: BranchUpdatedReason.BRANCH_IN_USE,
}


@dataclass(frozen=True, slots=True)
class PublishState:
    """Whether the server has what was accepted, for the condition BranchUpdated."""

    reason: BranchUpdatedReason
    message: str
    pushed: Mapping[str, str] = field(default_factory=dict)
    """What this call pushed: ref to commit."""
    retry_after: float | None = None
    """Seconds after which a call may find something to do; None: not before the next save."""
    seconds: float | None = field(default=None, compare=False)
    """How long this call talked to the server; None: it did not."""

    @property
    def ok(self) -> bool:
        return self.reason is BranchUpdatedReason.UP_TO_DATE


class Pace:
    """At most one conversation in `seconds` with each repository on a server, however many runs push there."""

    def __init__(self, seconds: float = PUSH_SECONDS) -> None:
        self._seconds = seconds
        self._next: dict[tuple[str, str], float] = {}
        self._guard = threading.Lock()

    def take(self, repository: tuple[str, str], now: float) -> float:
        """0: go ahead, the turn is taken; else the seconds until the next turn. `now` in seconds of any one clock."""
        with self._guard:
            free = self._next.get(repository, now)
            # A clock that was set back must not stop a run for the difference.
            if now < free <= now + self._seconds:
                return free - now
            self._next[repository] = now + self._seconds
            return 0.0


class Publisher:
    """Pushes one run's branch and ledger. It may run while the run is being saved: every ref moves by
    compare-and-swap."""

    def __init__(
        self,
        repository: Repository,
        url: str,
        branch_ref: str,
        ledger_ref: str,
        inputs: Sequence[str],
        access: Callable[[], AbstractContextManager[Access]],
        pace: Pace,
        finished: Callable[[], bool],
    ) -> None:
        """`inputs` are the patterns of the files that trials read; `access` gives credentials for one conversation;
        `finished`: the run is over, so that its branch may be somebody else's by now."""
        self._repository = repository
        self._url = url
        self._branch, self._ledger = branch_ref, ledger_ref
        self._inputs = tuple(inputs)
        self._access = access
        self._pace = pace
        self._finished = finished
        self._identity = address(url).repository
        self._guard = threading.Lock()
        self._published: tuple[str, str] | None = None
        """Branch and ledger as the server has them; None: not known."""
        self._owned = False
        """The server's other ledgers were looked through, and no other run lands on our branch."""
        self._last = self._not_before = float("-inf")
        self._misses = 0
        self.state = PublishState(BranchUpdatedReason.UP_TO_DATE, "nothing was accepted yet")

    def publish(self, now: float) -> PublishState:
        """Brings the server up to date if it is time; `now` in seconds. It raises nothing."""
        with self._guard:
            try:
                wait = self._wait(now)
            except GitError as error:
                self.state = self._judge(_broken(error), {}, now)
                return self.state
            if wait is None:
                wait = self._pace.take(self._identity, now)
            if wait > 0:
                self.state = replace(self.state, pushed={}, retry_after=wait, seconds=None)
            else:
                self.state = self._attempt(now)
            return self.state

    def hurry(self) -> PublishState:
        """As `publish`, at once: for a run that is about to be closed for good."""
        with self._guard:
            self.state = self._attempt(max(self._last, 0.0))
            return self.state

    def _attempt(self, now: float) -> PublishState:
        pushed: dict[str, str] = {}
        began = time.monotonic()
        try:
            with self._access() as access:
                result = self._converse(access, pushed)
        except (GitError, StorageFull) as error:
            result = _broken(error)
        except SecretNotAllowed as error:
            result = Result(Outcome.CREDENTIALS, str(error))
        except KubeError as error:
            result = Result(Outcome.UNAVAILABLE, f"the Secret for {self._url} could not be read: {error}")
        return replace(self._judge(result, pushed, now), seconds=time.monotonic() - began)

    def reopened(self) -> None:
        """A finished run goes on: its branch may have been taken by another one."""
        self._owned = False

    def _wait(self, now: float) -> float | None:
        """Seconds in which there is nothing to do; None: it is time."""
        if now < self._not_before <= now + LONGEST_SECONDS:
            return self._not_before - now
        if self._published is None or not self.state.ok:
            return None
        tips = self._tips()
        if tips == self._published:
            due = self._last + LOOK_SECONDS
        elif tips[0] == self._published[0]:
            due = self._last + LEDGER_SECONDS
        else:
            return None
        return due - now if self._last <= now < due else None

    def _judge(self, result: Result, pushed: Mapping[str, str], now: float) -> PublishState:
        self._last = now
        reason = _REASONS.get(result.outcome, BranchUpdatedReason.GIT_UNAVAILABLE)
        if result.ok:
            self._misses, self._not_before = 0, float("-inf")
            message = f"{self._branch} at {self._url} holds every accepted edit"
            return PublishState(reason, _cut(message), pushed, LOOK_SECONDS)
        self._published = None
        if reason is BranchUpdatedReason.GIT_UNAVAILABLE:
            pause = min(LONGEST_SECONDS, PUSH_SECONDS * 2**self._misses)
            self._misses = min(self._misses + 1, 10)
        else:
            pause = AGAIN_SECONDS
        self._not_before = now + pause
        return PublishState(reason, _cut(result.message), pushed, pause)

    # --- one conversation -----------------------------------------------------------------------------------------

    def _converse(self, access: Access, pushed: dict[str, str]) -> Result:
        remote = Remote(self._repository, self._url, access)
        # A second round only after losing a race: with a person's push, or with a save on our own volume.
        for _ in range(2):
            result = self._round(remote, access, pushed)
            if result.outcome is not Outcome.CONFLICT:
                break
            self._owned = False
        return result

    def _round(self, remote: Remote, access: Access, pushed: dict[str, str]) -> Result:
        looked = remote.look(self._branch, "refs/autoresearch/*")
        if not looked.ok:
            return looked
        there = looked.refs
        missing = {
            ref: SEEN + ref.removeprefix("refs/")
            for ref in (self._branch, self._ledger)
            if (sha := there.get(ref)) is not None and not self._repository.has(sha)
        }
        if missing and not (fetched := remote.fetch(missing)).ok:
            return fetched
        if not self._owned and not self._finished():
            ledgers = [ref for ref in there if ref.startswith("refs/autoresearch/") and ref.endswith("/ledger")]
            owner = foreign_owner(self._repository, self._url, access, ledgers, self._branch, self._ledger)
            if not owner.ok:
                return owner
            self._owned = True
        joined = self._join(there.get(self._branch))
        branch, ledger = self._tips()
        theirs = there.get(self._ledger)
        if theirs is not None and not self._repository.is_ancestor(theirs, ledger):
            return Result(
                Outcome.BRANCH_IN_USE,
                f"{self._ledger} at {self._url} is at {theirs[:12]}, which is not part of this run: the same run is at "
                "work elsewhere. Delete one of the two; if the other is gone for good, delete that ref on the server",
            )
        records = [Change(self._ledger, theirs, ledger)] if theirs != ledger else []
        if not joined.ok:
            # The edits are not on the branch, and the records that keep them alive are worth having there all the same.
            self._push(remote, records, pushed)
            return joined
        head = there.get(self._branch)
        contained = head is not None and self._repository.is_ancestor(branch, head)
        landed = [] if contained else [Change(self._branch, head, branch)]
        result = self._push(remote, landed + records, pushed)
        if result.ok:
            self._published = (branch, ledger)
        elif result.outcome is Outcome.REJECTED and landed and records:
            self._push(remote, records, pushed)
        return result

    def _push(self, remote: Remote, changes: Sequence[Change], pushed: dict[str, str]) -> Result:
        if not changes:
            return Result(Outcome.PUSHED)
        result = remote.push(changes)
        if result.ok:
            pushed.update({change.ref: change.new for change in changes})
        return result

    def _join(self, theirs: str | None) -> Result:
        """Takes a person's commits on the server's branch over into ours, where trials cannot tell the difference."""
        if theirs is None:
            return Result(Outcome.PUSHED)
        ours = self._repository.resolve(self._branch)
        joined = join(self._repository, ours, theirs, self._inputs)
        if isinstance(joined, Foreign):
            if self._finished() and self._repository.is_ancestor(ours, theirs):
                return Result(Outcome.PUSHED)  # everything accepted is there; what came after is not this run's
            return Result(Outcome.DIVERGED, self._foreign(ours, theirs, joined))
        if joined == ours:
            return Result(Outcome.PUSHED)
        return self._repository.update([Change(self._branch, ours, joined)])

    def _foreign(self, ours: str, theirs: str, found: Foreign) -> str:
        where = f"{self._branch} at {self._url} is at {theirs[:12]}"
        if found.base is None:
            return f"{where}, which has nothing in common with this run: move it away, or choose another source.branch"
        edits = self._edits(found.base, ours)
        kept = f"; {edits} measured without them and kept on {ours[:12]}" if edits else ""
        what = f"changes {', '.join(found.paths[:5])}, which trials read" if found.paths else "changes the same files"
        return (
            f"{where}: somebody's commit after {found.base[:12]} {what}{kept}. To join them, a Combination of "
            f"{theirs[:12]} and {ours[:12]} has to be measured: start a run with source.ref "
            f"{self._branch.removeprefix('refs/heads/')}, or move the branch back to {found.base[:12]}"
        )

    def _edits(self, base: str, ours: str) -> str:
        """The landings after `base`, such as "experiments 12, 17 were"; empty: none."""
        numbers = []
        for commit in self._repository.branch_log(ours, limit=1000):
            if commit.sha == base:
                break
            if number := commit.trailers.get("Autoresearch-Experiment"):
                numbers.append(number)
        shown = ", ".join([*numbers[:10][::-1], *(["and more"] if len(numbers) > 10 else [])])
        return f"experiments {shown} were" if numbers else ""

    def _tips(self) -> tuple[str, str]:
        """Branch and ledger as one save left them."""
        while True:
            ledger = self._repository.resolve(self._ledger)
            branch = self._repository.resolve(self._branch)
            if self._repository.resolve(self._ledger) == ledger:
                return branch, ledger


def _broken(error: Exception) -> Result:
    return Result(Outcome.UNAVAILABLE, f"the run's repository on the operator's volume: {error}")


def _cut(message: str) -> str:
    return message if len(message) <= _MESSAGE else message[: _MESSAGE - 1] + "…"
