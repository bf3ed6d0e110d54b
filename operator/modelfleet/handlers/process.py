"""The process ``operator``, top to bottom: what it watches, what it runs, what ends it.

Decided here: the order of things. Our kinds must exist; then the Lease; then informers and the loop; Kopf last, because it cancels every task younger
than itself when it ends, and without the signals, which are ours. A follower waits for the Lease, alive *and ready*, so that a Deployment of two
replicas rolls out; it writes nothing. Whichever part ends first, the process ends: by a signal with everything put away and 0, by a lost Lease or a
failure at once with 1.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, NoReturn, cast

import kopf

from modelfleet.controller.loop import Clocks, Loop
from modelfleet.controller.meters import Meters
from modelfleet.controller.planner import Planner
from modelfleet.errors import ModelfleetError, Retry
from modelfleet.kube.apply import Actor
from modelfleet.kube.changes import Changes
from modelfleet.kube.client import Client
from modelfleet.kube.events import Recorder
from modelfleet.kube.ghosts import Ghosts
from modelfleet.kube.lease import Lease
from modelfleet.kube.mirror import Mirror
from modelfleet.observability.logging import configure, say
from modelfleet.telemetry.scrape import Scraper

from .heap import Heap
from .kinds import await_kinds, watch_kinds
from .lifecycle import kopf_settings, log_in_with
from .options import OperatorOptions
from .probes import ProbeServer
from .resources import hear_our_kinds
from .signals import SignalLoop

__all__ = ["Operator", "run_operator"]

_log = logging.getLogger(__name__)
_PULSE_SECONDS = 1.0
_ACQUIRING_SECONDS = 1.0


def run_operator(options: OperatorOptions) -> int:
    """Run until a signal (0) or a failure (1). Raises Stalled when the options cannot work: no credentials, a port in use."""
    configure(options.log_level)
    with asyncio.Runner(loop_factory=SignalLoop) as runner:
        return runner.run(_run(options))


async def _run(options: OperatorOptions) -> int:
    place = options.place
    client = await Client.connect("operator", place.kubeconfig, context=place.context, request_timeout=options.pace.request)
    try:
        return await Operator(client, options).run()
    finally:
        await client.close()


class Operator:
    """One life of the process. It is also what the probes ask."""

    def __init__(self, client: Client, options: OperatorOptions) -> None:
        place, pace, lease = options.place, options.pace, options.lease
        self._client, self._pace, self._identity = client, pace, place.identity
        self._meters = Meters(client.writes)
        self._changes = Changes()
        self._mirror = Mirror(self._changes, gateway_namespace=place.namespace)
        self._lease = Lease(client, place.namespace, lease.name, place.identity, duration=lease.duration, deadline=lease.deadline, renew=lease.renew)
        self._ghosts = Ghosts(client, self._mirror, period=pace.ghosts)
        self._scraper = Scraper(self._mirror.gateways, options.scrape, lambda: self._changes.add("Telemetry:"))
        self._loop = Loop(
            self._mirror, self._changes, Actor(client, self._mirror, Recorder(client, _now)), Planner(), self._scraper.telemetry,
            defaults=options.defaults, clocks=Clocks(now=_now), meters=self._meters, resync=pace.resync,
        )  # fmt: skip
        self._heap = Heap(lambda: self._loop.cycles)
        self._probes = ProbeServer(self, self._meters.registry, place.port)
        self._stop = asyncio.Event()
        self._kopf_stop, self._kopf_ready = asyncio.Event(), asyncio.Event()
        self._waiting_for: str | None = "starting"
        self._led_since: float | None = None

    async def run(self) -> int:
        """Steps 1 to 8; returns 0, or does not return."""
        self._take_signals()
        # no write before the Lease; the Lease's own do not ask
        self._client.before_write = self._lease.check
        probes = asyncio.create_task(self._probes.run_until_told(), name="probes")

        if await self._unless_stopped(await_kinds(self._client, self._wait_for)) and await self._unless_stopped(self._follow(), grace=_ACQUIRING_SECONDS):
            await self._lead(probes)
        say(_log, logging.INFO, "stopped", identity=self._identity)
        await self._lease.release()
        self._probes.should_exit = True
        await probes
        return 0

    async def _follow(self) -> None:
        self._waiting_for = None
        say(_log, logging.INFO, "waiting for the Lease", identity=self._identity)
        await self._lease.acquire()

    async def _lead(self, probes: asyncio.Task[None]) -> None:
        """Start everything, wait for the first to end, and stop; or exit the process."""
        say(_log, logging.INFO, "leading", identity=self._identity)
        self._led_since = time.monotonic()
        self._meters.leader.set(1)
        loop = asyncio.create_task(self._loop.run(), name="loop")
        informers = self._mirror.informers(self._client, silence=self._pace.silence)
        helpers = [
            asyncio.create_task(self._lease.run(), name="lease"),
            *(asyncio.create_task(informer.run(), name=f"informer of {informer.resource.plural}") for informer in informers),
            asyncio.create_task(self._ghosts.run(), name="ghosts"),
            asyncio.create_task(watch_kinds(self._client, self._pace.crds), name="kinds"),
            asyncio.create_task(self._scraper.run(), name="scraper"),
            asyncio.create_task(self._pulse(), name="pulse"),
        ]
        told = asyncio.create_task(self._stop.wait(), name="signal")
        events = asyncio.create_task(self._hear_kopf(), name="kopf")

        await asyncio.wait({loop, *helpers, told, events, probes}, return_when=asyncio.FIRST_COMPLETED)
        if self._lease.lost.is_set():
            _die("the Lease is lost")
        if not self._stop.is_set():
            _die(_why(loop, *helpers, events, probes))
        await self._put_away(loop, [*helpers, told], events)

    async def _put_away(self, loop: asyncio.Task[None], helpers: list[asyncio.Task[Any]], events: asyncio.Task[None]) -> None:
        """The clean stop: let the act in hand finish (bounded), write nothing more, release the Lease, and only then stop Kopf."""
        self._stop.set()
        self._waiting_for = "stopping"
        say(_log, logging.INFO, "stopping", identity=self._identity)
        self._loop.stop()
        await asyncio.wait({loop}, timeout=self._pace.finish)
        self._client.before_write = _refuse
        await asyncio.wait({loop}, timeout=self._pace.last_write)
        await _cancel([loop, *helpers])
        await self._lease.release()
        self._kopf_stop.set()
        await asyncio.gather(events, return_exceptions=True)

    async def _hear_kopf(self) -> None:
        registry = kopf.OperatorRegistry()
        log_in_with(self._client, registry)
        hear_our_kinds(self._mirror, registry)
        await kopf.operator(
            registry=registry,
            settings=kopf_settings(),
            # left to itself Kopf asks the password database for one, and a pod's user is in none
            identity=cast("Any", self._identity),
            clusterwide=True,
            standalone=True,
            stop_flag=self._kopf_stop,
            ready_flag=self._kopf_ready,
        )

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        if isinstance(loop, SignalLoop):
            loop.seal()

    async def _unless_stopped(self, step: Coroutine[Any, Any, None], grace: float = 0.0) -> bool:
        """Run a step to its end (True), unless a signal comes first; a step that may just be writing gets ``grace`` seconds."""
        doing, told = asyncio.ensure_future(step), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({doing, told}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done() and grace:
            await asyncio.wait({doing}, timeout=grace)
        stopped = self._stop.is_set()
        await _cancel([told, doing] if not doing.done() else [told])
        if doing.done() and not doing.cancelled():
            doing.result()
        return not stopped

    async def _pulse(self) -> None:
        while True:
            due = time.monotonic() + _PULSE_SECONDS
            await asyncio.sleep(_PULSE_SECONDS)
            self._meters.loop_lag.set(max(0.0, time.monotonic() - due))
            self._heap.tick()

    def _wait_for(self, word: str) -> None:
        self._waiting_for = word

    # What the probes ask

    def why_not_alive(self) -> str | None:
        """A loop that stands still, or a stream that is silent. Waiting for kinds or for the Lease is alive."""
        if self._led_since is None or self._stop.is_set():
            return None
        if self._loop.still_for() > self._pace.stuck:
            return f"the loop has not turned for {self._loop.still_for():.0f} s"
        if not self._ghosts.healthy:
            return "the stream of our kinds is silent: the API server has newer objects than we were told of"
        if not self._mirror.synced():
            waited = time.monotonic() - self._led_since
            return f"the mirror is not complete after {waited:.0f} s" if waited > self._pace.stuck else None
        if not self._mirror.fresh(2 * self._pace.silence):
            return f"a watch has said nothing for {2 * self._pace.silence:.0f} s"
        return None

    def why_not_ready(self) -> str | None:
        """A follower is ready; a leader when it has planned once with a complete mirror."""
        if self._waiting_for is not None:
            return self._waiting_for
        if self._led_since is None:
            return None
        if not self._kopf_ready.is_set() or not self._mirror.synced():
            return "the mirror is not complete yet"
        return None if self._loop.cycles else "nothing is planned yet"


def _refuse() -> None:
    raise Retry("Stopping", "the process is stopping, so it may not write")


def _now() -> datetime:
    return datetime.now(UTC)


async def _cancel(tasks: list[asyncio.Task[Any]] | list[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _why(*tasks: asyncio.Task[Any]) -> str:
    for task in tasks:
        if task.done():
            error = None if task.cancelled() else task.exception()
            if isinstance(error, ModelfleetError):
                return f"{task.get_name()} failed: {error.message}"
            return f"{task.get_name()} ended" + (f": {error!r}" if error else " unexpectedly")
    return "no part of the process is left"


def _die(why: str) -> NoReturn:
    """At once: no cleanup that could write, no handler that could wait."""
    _log.critical("%s: exiting", why)
    logging.shutdown()
    os._exit(1)
