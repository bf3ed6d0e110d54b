"""What the engine asks of a journal: rows that outlive the process, and errors that stop spending.

Every ``await`` of a write returns when the row is durable, and raises JournalError if it is not. Writes happen in the order they were asked for; a write whose
await is cancelled happens all the same. Clock values (Unix seconds) are arguments. Payloads are opaque bytes here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol

from modelfleet.errors import Bug, ModelfleetError

__all__ = [
    "KEY_LIFETIME",
    "MAX_PAYLOAD",
    "MAX_REQUEST",
    "MAX_RESULT",
    "CallEnd",
    "CallRow",
    "EventRow",
    "Journal",
    "JournalError",
    "JournalMisuse",
    "PayloadTooLarge",
    "RememberedKey",
    "RunRow",
]

MAX_PAYLOAD: Final = 256 * 1024
"""Bytes of one event. An output above it is InvalidOutput."""
MAX_REQUEST: Final = 16 * 1024 * 1024
"""Bytes of what a run was asked."""
MAX_RESULT: Final = 1024 * 1024
"""Bytes of how a run ended: the answer, which was an event before, and the figures around it."""
KEY_LIFETIME: Final = 24 * 3600
"""Seconds an Idempotency-Key is remembered."""

CallEnd = Literal["settled", "assumed", "released"]


class JournalError(ModelfleetError):
    """The row is not durable, or the journal cannot be opened: spend nothing. ``reason``: JournalReadOnly (it takes no rows), JournalLocked, JournalInvalid."""


class PayloadTooLarge(JournalError):
    """A payload above its maximum; nothing was written, and the journal is well."""


class JournalMisuse(Bug):
    """A row that contradicts what is there: a call reserved twice, an event of an unknown run. Nothing was written, and the journal is well."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run.

    ``request``: what was asked and what the run pinned (its prices). ``full`` False: nothing is stored of ``request``, of events' payloads and of ``result``,
    and the run cannot be resumed. ``ttl``: seconds it is kept after its end. The last four are set by the journal when it is finished.
    """

    run_id: str
    team: str
    revision: str
    caller: str
    started: float
    deadline: float
    ttl: float
    full: bool = True
    request: bytes = b""
    state: str = "Running"
    stop_reason: str | None = None
    finished: float | None = None
    result: bytes = b""


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event of a run; ``seq`` counts from 0 without gaps, given by the engine."""

    seq: int
    kind: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class CallRow:
    """One attempt at a call, reserved before it leaves. Money in micro-dollars. What follows ``reserved_at`` is set when the attempt ends."""

    run_id: str
    call_id: str
    attempt: int
    role: str
    target: str
    reserved: int
    reserved_tokens: int
    reserved_at: float
    state: Literal["reserved", "settled", "assumed", "released"] = "reserved"
    charged: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    pool: str | None = None
    flavor: str | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RememberedKey:
    """Who had an Idempotency-Key first: the run to join if the digests agree."""

    run_id: str
    body_digest: str


class Journal(Protocol):
    """Durable rows. All methods raise JournalError when the journal cannot take or give rows, JournalMisuse on rows that contradict."""

    @property
    def healthy(self) -> bool:
        """Whether the last write worked. False: not ready, and no new calls."""
        ...

    @property
    def reason(self) -> str:
        """Why it is not healthy, for a person; empty when it is."""
        ...

    async def probe(self, now: float) -> bool:
        """``healthy``, after trying a write if it was not: what a readiness check asks, since a closed door brings no writes that would tell."""
        ...

    async def save_plan(self, revision: str, plan: bytes, now: float) -> None:
        """Keep a plan while runs need it. Ask before each ``begin``: it is cheap, and a plan without runs is forgotten a day later."""
        ...

    async def plan(self, revision: str) -> bytes | None:
        """A kept plan."""
        ...

    async def begin(self, run: RunRow) -> None:
        """A run is accepted. Its revision must have been saved. Raises PayloadTooLarge for its request."""
        ...

    async def append(self, run_id: str, seq: int, kind: str, payload: bytes) -> None:
        """Something happened. Raises PayloadTooLarge above MAX_PAYLOAD."""
        ...

    async def reserve_call(self, call: CallRow) -> None:
        """An attempt may leave once this has returned, never before. A run that has ended reserves nothing (JournalMisuse)."""
        ...

    async def settle_call(
        self,
        run_id: str,
        call_id: str,
        attempt: int,
        state: CallEnd,
        *,
        charged: int,
        prompt_tokens: int,
        completion_tokens: int,
        flags: tuple[str, ...] = (),
        pool: str | None = None,
        flavor: str | None = None,
    ) -> None:
        """How an attempt ended, and what it cost. The first end stands; later ones change nothing."""
        ...

    async def finish(self, run_id: str, state: str, stop_reason: str, result: bytes, now: float) -> None:
        """A run ended. The first end stands. Raises PayloadTooLarge above MAX_RESULT."""
        ...

    async def run(self, run_id: str) -> RunRow | None:
        """One run, ended or not."""
        ...

    async def orphans(self) -> list[RunRow]:
        """Runs that have not ended, oldest first. Ask at start, before the first ``begin``: they are a former process's."""
        ...

    async def events(self, run_id: str) -> list[EventRow]:
        """What happened in a run, in order."""
        ...

    async def calls(self, run_id: str) -> list[CallRow]:
        """Every attempt of a run, in the order they were reserved."""
        ...

    async def remember_key(self, key: str, caller: str, body_digest: str, run_id: str, now: float) -> RememberedKey | None:
        """Claim an Idempotency-Key of a caller for a run. None: claimed. Else who had it first, less than KEY_LIFETIME ago."""
        ...

    async def forget_key(self, key: str, caller: str, run_id: str) -> None:
        """Give a claim back: its run was never begun."""
        ...

    async def keyed(self, run_id: str) -> bool:
        """Whether an Idempotency-Key is remembered for a run, so that its client may come back for it."""
        ...

    async def prune(self, now: float) -> int:
        """Forget ended runs past their ``ttl``, old keys and plans without runs. How many runs went."""
        ...

    async def close(self) -> None:
        """Write what was asked for, then let go of the file. Later calls raise JournalError."""
        ...
