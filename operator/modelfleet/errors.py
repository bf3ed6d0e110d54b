"""The error tree: what went wrong, for whom, and who must act.

Foreign exceptions are mapped to these at the border (``kube/client.py``, ``telemetry/``); inside, a function raises
one of them or none. ``reason`` is a PascalCase constant that may become a condition; ``message`` is a sentence for a person.
"""

from __future__ import annotations

__all__ = ["ApiError", "Bug", "Conflict", "Forbidden", "Gone", "Invalid", "ModelfleetError", "NotFound", "Retry", "Stalled", "Unavailable"]


class ModelfleetError(Exception):
    """Root of everything modelfleet raises on purpose."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class Retry(ModelfleetError):
    """Nobody must act: trying again later will do. ``after`` is in seconds."""

    def __init__(self, reason: str, message: str, after: float = 1.0) -> None:
        super().__init__(reason, message)
        self.after = after


class Stalled(ModelfleetError):
    """Only the user can help: the object, the field and the cure are in the message."""


class Bug(ModelfleetError):
    """Only we can help: a state that the code says cannot be."""


class ApiError(ModelfleetError):
    """The API server answered with an error. ``status`` is the HTTP code (0: no answer)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.status = status


class NotFound(ApiError):
    """404: the object, or its kind, does not exist."""


class Conflict(ApiError):
    """409: somebody else wrote first, or owns the field."""


class Gone(ApiError):
    """410: the watch history we asked for is lost; list again."""


class Forbidden(ApiError):
    """401 or 403: credentials or RBAC; the message names the verb and resource."""


class Invalid(ApiError):
    """400 or 422: the server refused the object; the message names the field."""


class Unavailable(ApiError):
    """No answer, a timeout, 429 or 5xx: safe to repeat later."""
