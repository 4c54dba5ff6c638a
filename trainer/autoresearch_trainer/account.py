"""What the gate has seen of one trial; everything here is trusted but the loss, which is the candidate's word."""

from dataclasses import dataclass, field


@dataclass
class Account:
    """What the gate has seen of one trial."""

    served_steps: int = 0
    """Batches served, the free ones included."""
    steps: int = 0
    """Batches served after the clock started."""
    free_tokens: int = 0
    train_tokens: int = 0
    started_wall: float | None = None
    started_cpu: float = 0.0
    stopped_wall: float | None = None
    stopped_cpu: float = 0.0
    artifact_sha256: str | None = None
    artifact_problem: tuple[str, str] | None = None
    """(detail, sentence) when what was handed over was refused on arrival."""
    problem: str | None = None
    """The last refusal, as a sentence."""
    last_step: int = 0
    last_loss: float | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)

    @property
    def handed_over(self) -> bool:
        """True once a whole artifact has arrived."""
        return self.artifact_sha256 is not None
