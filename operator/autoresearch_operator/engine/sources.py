"""The files of candidates: read from the run's repository, written to it, and laid out for a trial."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.gateways.errors import GitError
from autoresearch_operator.gateways.git import Repository
from autoresearch_operator.research.records import ExperimentRecord

Files = Mapping[str, str]


def declared_inputs(spec: ResearchRunSpec, present: Sequence[str]) -> tuple[str, ...]:
    """Patterns of the files that a trial gets: what may be edited, the source's Python files and the program."""
    wanted = dict.fromkeys((*spec.source.editable_paths, "*.py", spec.source.program))
    optional = {spec.source.program}
    return tuple(pattern for pattern in wanted if pattern not in optional or pattern in present)


class Sources:
    """Reads and writes candidates of one run."""

    def __init__(self, repository: Repository, source_commit: str, inputs: Sequence[str], *, repeatable: bool) -> None:
        """`repeatable`: commit dates follow from experiment numbers, so that two runs give the same commits."""
        self._repository = repository
        self._inputs = tuple(inputs)
        self._repeatable = repeatable
        commit = repository.commit(source_commit)
        self.commit, self.tree, self.when = commit.sha, commit.tree, commit.when
        self._texts = lru_cache(maxsize=256)(self._read)

    def time_of(self, number: int, real: float | None = None) -> float:
        """The date of an experiment's commits, seconds since the epoch.

        Under a budget of steps a run is repeatable to the commit, so its dates are made up: the source's, and one
        second more for each experiment. Otherwise they are the real ones.
        """
        if self._repeatable:
            return float(self.when + number)
        return float(int(time.time() if real is None else real))

    def files(self, record: ExperimentRecord) -> Files:
        """Path to text of the files that a trial of this candidate gets."""
        return self._texts(record.commit)

    def _read(self, commit: str) -> Files:
        files: dict[str, str] = {}
        for path, content in self._repository.read_files(commit, self._inputs).items():
            try:
                files[path] = content.decode("utf-8")
            except UnicodeDecodeError:
                raise GitError(
                    f"{path} in commit {commit[:12]} is not UTF-8: a trial's files have to be text"
                ) from None
        return files

    def diff(self, record: ExperimentRecord, experiments: Sequence[ExperimentRecord]) -> str:
        """The candidate's edit as a unified diff against the experiment it was made on."""
        base = experiments[record.base]
        return "" if base.number == record.number else self._repository.diff(base.commit, record.commit)

    def write(self, base: ExperimentRecord, changed: Files, message: str, when: float) -> tuple[str, str]:
        """Writes a candidate's commit on its base and gives (commit, tree). It is on no ref yet."""
        encoded = {path: text.encode("utf-8") for path, text in changed.items()}
        return self._repository.write_candidate(base.landed_commit or base.commit, encoded, message, int(when))

    def land(self, record: ExperimentRecord, parent: ExperimentRecord, message: str, when: float) -> str:
        """Writes the commit that puts an accepted candidate on top of `parent`'s. It is on no ref yet."""
        return self._repository.landing_commit(parent.landed_commit or parent.commit, record.tree, message, int(when))

    def lay_out(self, record: ExperimentRecord, folder: Path) -> Path:
        """Puts the candidate's files into `folder`, which is made anew unless it is complete, and gives it back."""
        complete = folder.with_name("source.complete")
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            for path, text in self.files(record).items():
                place = folder / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8", newline="")
            complete.touch()
        return folder
