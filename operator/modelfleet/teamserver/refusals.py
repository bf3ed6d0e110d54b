"""Why a run does not start. All of these are raised before anything was spent; each message is a sentence for the client."""

from __future__ import annotations

__all__ = [
    "BudgetBelowMinimum",
    "Busy",
    "Draining",
    "InvalidTask",
    "JournalUnavailable",
    "NotStarted",
    "PriceUnknown",
    "RoleUnavailable",
    "Suspended",
    "TooLong",
]


class NotStarted(Exception):
    """A run that was refused before it cost anything. ``message`` is for the client; ``retry_after`` in seconds, None: trying again will not help."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class Busy(NotStarted):
    """As many runs as may wait do wait."""


class Draining(NotStarted):
    """This process is leaving."""


class Suspended(NotStarted):
    """The team takes no new runs."""


class BudgetBelowMinimum(NotStarted):
    """The caps would not pay for the cheapest start, or not for the finalizing call beside it."""


class PriceUnknown(NotStarted):
    """Nothing behind a role's target has a price."""


class TooLong(NotStarted):
    """The task has more parts than the strategy takes."""


class JournalUnavailable(NotStarted):
    """Nothing can be written down, so nothing may be spent."""


class InvalidTask(NotStarted):
    """The strategy cannot read the task at all."""


class RoleUnavailable(NotStarted):
    """There is nothing behind a role's target."""
