"""What the API server answers when it does not carry a request out."""

from __future__ import annotations


class KubeError(Exception):
    """The API server's answer to a request that it did not carry out."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        """`status` is the HTTP code (0: no answer), `reason` the API's word such as AlreadyExists, `message` its
        sentence."""
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} ({self.reason or 'no reason given'}, HTTP {self.status})"


class LoginError(Exception):
    """No way into a cluster was found; the message is a sentence for a person."""
