"""Would a push be let in? Asked without leaving anything behind, here or there."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from autoresearch_operator.gateways.errors import GitError
from autoresearch_operator.gateways.git import Repository
from autoresearch_operator.gateways.names import check_ref
from autoresearch_operator.gateways.process import Access, GitRunner
from autoresearch_operator.gateways.remote import Remote, failure, source_name

PUSH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a server said to a push that moves nothing."""

    ok: bool
    message: str
    source: str = ""
    """The commit that a run would start from."""


def rehearse_push(url: str, ref: str, branch_ref: str, access: Access) -> Rehearsal:
    """Fetches the newest commit of `ref` and tries a push of the branch with --dry-run. Blocking; raises no GitError.

    The server checks who pushes, and most servers whether that one may push at all; what a protected branch or a hook
    says is heard at a real push only.
    """
    check_ref(branch_ref)
    with tempfile.TemporaryDirectory(prefix="autoresearch-push-") as folder:
        try:
            repository = Repository.init(Path(folder) / "repo.git", access=access)
            remote = Remote(repository, url, access)
            wanted = source_name(remote, ref)
            there = branch_ref in remote.refs
            refs = {wanted: "refs/remote/source"} | ({branch_ref: "refs/remote/branch"} if there else {})
            fetched = remote.fetch(refs, tips_only=True)
            if not fetched.ok:
                raise failure(fetched)
            source = repository.resolve("refs/remote/source")
            # A branch that is there is pushed as it is: nothing to move, but the server has let us in to say so.
            start = repository.resolve("refs/remote/branch") if there else source
            finished = GitRunner(repository.path, access).run(
                "push", "--dry-run", "--porcelain", "--no-verify", "--no-recurse-submodules", "--", remote.url,
                f"{start}:{branch_ref}", timeout=PUSH_SECONDS,
            )  # fmt: skip
        except GitError as error:
            return Rehearsal(False, str(error).replace("; it is tried again", ""))
    if finished.code != 0:
        words = " ".join(finished.err.split())[:300]
        return Rehearsal(False, f"{url} does not let a push of {branch_ref} in ({words})", source)
    return Rehearsal(True, f"{url} lets a push of {branch_ref} in; {ref} is at {source[:12]}", source)
