"""Leadership by a coordination.k8s.io Lease: who may write, and until when.

Decided here: a holder believes in its Lease for ``deadline`` seconds after it *sent* its last good renewal; a follower takes over when it has *seen* the record
unchanged for the duration the record names. The deadline being shorter, the first stops before the second begins, whatever their wall clocks
say. A lost Lease is never taken back: the process ends. Wall-clock times are written for people and read by nobody here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from modelfleet.errors import Conflict, NotFound, Retry

from .client import Client, Object
from .resources import LEASES

__all__ = ["Lease"]

_log = logging.getLogger(__name__)


class Lease:
    """One candidate's view of the Lease. Give every write the guard: ``client.before_write = lease.check``."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: float = 15.0,
        deadline: float = 10.0,
        renew: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``identity`` must be unique to the process. Seconds: ``renew`` < ``deadline`` < ``duration``, else ValueError."""
        if not 0 < renew < deadline < duration:
            raise ValueError(f"a Lease needs renew < deadline < duration, not {renew}, {deadline}, {duration}")
        self.lost = asyncio.Event()
        """Set once the Lease was held and is no longer; never cleared."""
        self._client = client
        self._namespace, self._name, self._identity = namespace, name, identity
        self._duration, self._deadline, self._renew = duration, deadline, renew
        self._clock = clock
        self._until = float("-inf")
        self._record: Object | None = None
        self._seen: tuple[Any, ...] | None = None
        self._seen_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def held(self) -> bool:
        """True while nobody else may lead: two monotonic numbers, no I/O."""
        return self._clock() < self._until

    def check(self) -> None:
        """Raises Retry(LeaseNotHeld) unless held."""
        if not self.held():
            raise Retry("LeaseNotHeld", f"{self._identity} does not hold Lease {self._namespace}/{self._name}, so it may not write", after=self._renew)

    async def acquire(self) -> None:
        """Wait until we hold it, polling every ``renew`` seconds; no error of the API server ends the wait."""
        while not await self._attempt("cannot take the Lease", self._try_acquire):
            await self._pause(0.9, 1.0)

    async def run(self) -> None:
        """Renew until the Lease is lost (then ``lost`` is set) or the task is cancelled. Start it right after ``acquire``."""
        while not self.lost.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.lost.wait(), self._renew)
                return
            while not await self._attempt("cannot renew the Lease", self._try_renew) and not self.lost.is_set():
                await self._pause(0.1, 0.2)

    async def release(self) -> None:
        """On a clean stop, after ``run`` has been cancelled: not held from this call on, and the record says so, if the API server answers."""
        held = self.held()
        self._end()
        if held and self._record is not None:
            await self._attempt("cannot release the Lease", lambda: self._put(self._spec(self._record or {}, holder="", duration=1)))

    async def _pause(self, low: float, high: float) -> None:
        await asyncio.sleep(self._renew * random.uniform(low, high))  # noqa: S311 - jitter, so that candidates do not poll together

    async def _attempt(self, what: str, step: Callable[[], Any]) -> bool:
        """One step within the request's time; whatever goes wrong is a failure, not an end."""
        try:
            async with asyncio.timeout(self._renew):
                return bool(await step())
        except Exception as error:  # noqa: BLE001 - every exception is a failed renewal
            _log.warning("%s %s/%s: %s", what, self._namespace, self._name, str(error) or type(error).__name__)
            return False

    async def _try_acquire(self) -> bool:
        sent = self._clock()
        try:
            record = await self._client.get(LEASES, self._namespace, self._name)
        except NotFound:
            return await self._create()
        self._observe(record)
        spec = record.get("spec") or {}
        if spec.get("holderIdentity") not in ("", None, self._identity) and not self._expired(sent, spec):
            return False
        transitions = int(spec.get("leaseTransitions") or 0) + 1
        return await self._put(self._spec(record, holder=self._identity, transitions=transitions, acquired=True))

    async def _try_renew(self) -> bool:
        try:
            return await self._put(self._spec(self._record or {}, holder=self._identity))
        except Conflict:
            record = await self._client.get(LEASES, self._namespace, self._name)
        # somebody wrote: another holder, or a renewal of ours whose answer was lost, or a person's annotation
        if (record.get("spec") or {}).get("holderIdentity") != self._identity:
            _log.error("Lease %s/%s is held by %s", self._namespace, self._name, (record.get("spec") or {}).get("holderIdentity") or "nobody")
            self._lose()
            return False
        return await self._put(self._spec(record, holder=self._identity))

    async def _create(self) -> bool:
        body = self._spec({"metadata": {"name": self._name, "namespace": self._namespace}}, holder=self._identity, transitions=0, acquired=True)
        sent = self._clock()
        self._hold(sent, await self._client.create(LEASES, self._namespace, body, guarded=False, request_timeout=self._renew))
        return True

    async def _put(self, body: Object) -> bool:
        sent = self._clock()
        record = await self._client.replace(LEASES, self._namespace, self._name, body, guarded=False, request_timeout=self._renew)
        if body["spec"]["holderIdentity"]:
            self._hold(sent, record)
        return True

    def _observe(self, record: Object) -> None:
        spec = record.get("spec") or {}
        seen = (record["metadata"].get("resourceVersion"), spec.get("holderIdentity"), spec.get("renewTime"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()

    def _expired(self, now: float, spec: Object) -> bool:
        return now - self._seen_at > max(float(spec.get("leaseDurationSeconds") or 0), self._duration)

    def _spec(self, record: Object, *, holder: str, transitions: int | None = None, acquired: bool = False, duration: float | None = None) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {**(record.get("spec") or {}), "holderIdentity": holder, "renewTime": now, "leaseDurationSeconds": max(1, round(duration or self._duration))}
        if acquired:
            spec["acquireTime"] = now
        if transitions is not None:
            spec["leaseTransitions"] = transitions
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": record.get("metadata"), "spec": spec}

    def _hold(self, sent: float, record: Object) -> None:
        if self.lost.is_set():
            return
        self._record = record
        self._until = sent + self._deadline
        if self._timer is not None:
            self._timer.cancel()
        # a timer of its own: it fires however long a renewal hangs
        self._timer = asyncio.get_running_loop().call_later(max(0.0, self._until - self._clock()), self._lose)

    def _lose(self) -> None:
        self._end()
        self.lost.set()

    def _end(self) -> None:
        self._until = float("-inf")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
