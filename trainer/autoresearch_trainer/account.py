"""What the gate has seen of one trial; the loss and device_bytes alone are the candidate's word."""

from dataclasses import dataclass, field


@dataclass
class Account:
    """What the gate has seen of one trial."""

    steps: int = 0
    """Batches that counted; with several ranks those of the rank that had most."""
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
    device_bytes: int = 0
    """Most bytes that a rank said it had on its device; 0 when none said."""
    curve: list[tuple[int, float]] = field(default_factory=list)

    @property
    def handed_over(self) -> bool:
        """True once a whole artifact has arrived."""
        return self.artifact_sha256 is not None
