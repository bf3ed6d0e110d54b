"""Idempotency-Key: the same request of the same caller, sent again within 24 hours, gets the same run.

Decided here: the key is claimed in the journal before the run is submitted, and given back if the run was refused; who comes later joins the run while it
goes on, and gets its recorded result afterwards. Another body under a known key is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4
from weakref import WeakValueDictionary

from .engine import Engine
from .journal.protocol import Journal, JournalError, RunRow
from .openai_wire import Refusal
from .records import read_result
from .run import Run

__all__ = ["Joins"]

Submit = Callable[[str], Awaitable[Run]]


class Joins:
    """Keys of all callers. One process holds the journal, so requests that come at the same time meet here."""

    def __init__(self, engine: Engine, journal: Journal, clock: Callable[[], float] = time.time) -> None:
        """``clock`` in Unix seconds."""
        self._engine = engine
        self._journal = journal
        self._clock = clock
        self._coming: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def run(self, caller: str, key: str | None, digest: str, submit: Submit) -> Run:
        """A new run, or the one that had ``key`` first. ``submit(run id)`` starts one. Raises Refusal."""
        run_id = f"run-{uuid4().hex}"
        if key is None:
            return await submit(run_id)
        lock = self._coming.setdefault((caller, key), asyncio.Lock())
        try:
            async with lock:
                return await self._claimed(caller, key, digest, run_id, submit)
        except JournalError as error:
            raise Refusal(503, "not_ready", f"the journal takes no rows: {error.message}", retry_after=5.0) from None

    async def _claimed(self, caller: str, key: str, digest: str, run_id: str, submit: Submit) -> Run:
        first = await self._journal.remember_key(key, caller, digest, run_id, self._clock())
        if first is None:
            return await self._first(caller, key, run_id, submit)
        if first.body_digest != digest:
            raise Refusal(422, "idempotency_key_reused", "Idempotency-Key: another request was sent under this key; take a new key", "Idempotency-Key")
        going_on = self._engine.run(first.run_id)
        if going_on is not None:
            return going_on
        row = await self._journal.run(first.run_id)
        if row is not None:
            return _ended(row)
        # a process died between the claim and the run's first row: nothing was spent
        await self._journal.forget_key(key, caller, first.run_id)
        return await self._claimed(caller, key, digest, run_id, submit)

    async def _first(self, caller: str, key: str, run_id: str, submit: Submit) -> Run:
        try:
            return await submit(run_id)
        except BaseException:
            await asyncio.shield(self._journal.forget_key(key, caller, run_id))
            raise


def _ended(row: RunRow) -> Run:
    if row.result:
        run = Run(row.run_id, row.team, row.revision)
        run.end(read_result(row.result))
        return run
    if row.state != "Running":
        ended = f"{row.state}/{row.stop_reason}"
        raise Refusal(409, "result_not_kept", f"Idempotency-Key: the run has ended as {ended}, and its answer was not kept", "Idempotency-Key")
    raise Refusal(503, "not_ready", "Idempotency-Key: the run is being taken up again after a restart", "Idempotency-Key", retry_after=1.0)
