"""The one error of the judge: why an artifact gets no score."""

ARTIFACT_REFUSED = "ArtifactRefused"
OPERATOR_NOT_ALLOWED = "OperatorNotAllowed"
NON_FINITE = "NonFinite"
NOT_CAUSAL = "NotCausal"
HOST_OUT_OF_MEMORY = "HostOutOfMemory"
CUDA_OUT_OF_MEMORY = "CUDAOutOfMemory"
TIMEOUT = "Timeout"

MAX_QUOTED_CHARACTERS = 60


class Refused(Exception):
    """The artifact is not scored. `reason` is a verdict reason of the API, `detail` one word under it."""

    def __init__(self, reason: str, detail: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.detail = detail
        self.message = message

    def as_json(self) -> dict[str, str]:
        """What `score_artifact` gives in place of a score."""
        return {"reason": self.reason, "detail": self.detail, "message": self.message}


def malformed(detail: str, message: str) -> Refused:
    """A Refused for something that our own writer never writes."""
    return Refused(ARTIFACT_REFUSED, detail, message)


def quoted(text: object) -> str:
    """text of the candidate's choice, short and printable, for use inside a sentence."""
    plain = ascii(text)
    return plain if len(plain) <= MAX_QUOTED_CHARACTERS else plain[: MAX_QUOTED_CHARACTERS - 3] + "..."
