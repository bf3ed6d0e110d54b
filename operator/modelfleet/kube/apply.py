"""skeleton (body arrives in minutes): see signatures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet.core.plan import Plan
from modelfleet.errors import ApiError

from .client import Client
from .events import Recorder
from .mirror import Mirror


@dataclass(frozen=True, slots=True)
class ActResult:
    """``errors`` by object key ``<Kind>:<ns>/<name>`` (for backoff), ``writes`` = calls that asked for a change."""

    errors: Mapping[str, ApiError]
    writes: int


class Actor:
    """Makes a plan true: children, prune, node labels, statuses, vanished gateways, events; each idempotent, written only on change."""

    def __init__(self, client: Client, mirror: Mirror, recorder: Recorder) -> None: ...
    async def act(self, plan: Plan, skip: frozenset[str] = frozenset()) -> ActResult:
        """``skip``: object keys that are backing off. Raises errors.Retry("LeaseNotHeld") and nothing else on purpose."""
