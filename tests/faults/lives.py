"""Operators that die and are replaced, each behind a proxy of its own that counts its requests and kills it at the one that a test names."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

from tests.faults.scene import Objects, Scene, differences
from tests.operator.running import OperatorProcess, eventually, is_lease, is_work
from tests.support.proxy import ApiProxy, Hold, Seen

LEASE_OF_TWO_SECONDS = {"LEASE_DURATION": "2", "LEASE_DEADLINE": "1.9", "LEASE_RENEW": "0.5"}
"""Where each death costs its length. A machine that stands still may take it away: such tests must not count how often that happens."""
STEADY_LEASE = {"LEASE_DURATION": "6", "LEASE_DEADLINE": "5.5", "LEASE_RENEW": "0.5"}
"""Where the test says who leads when."""
RESYNC = 0.3
QUIET_CYCLES = 4
SETTLE_SECONDS = 180.0
SAME_SECONDS = 180.0

When = Literal["before", "after"]
"""Before the request is forwarded, or after it was done but before its sender hears of it."""


class Server(Protocol):
    """An API server, or a way to one."""

    @property
    def url(self) -> str: ...
    @property
    def token(self) -> str: ...
    @property
    def ca_file(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class Through:
    """The API server as seen through something else."""

    url: str
    token: str
    ca_file: Path


@dataclass
class Life:
    """One operator process, its proxy, and the writes that it sent: when (monotonic seconds), and which."""

    operator: OperatorProcess
    proxy: ApiProxy
    wrote: list[tuple[float, Seen]] = field(default_factory=list)
    struck: Seen | None = None
    _armed: object = None

    def kill_at(self, number: int, when: When, counts: Callable[[Seen], bool] = is_work) -> None:
        """SIGKILL at the ``number``-th request from now on (from 1) that counts; it and all later ones are held for ever."""
        self._armed = mine = object()
        counted = 0

        def strike(seen: Seen) -> bool:
            nonlocal counted
            if self._armed is not mine or not counts(seen):
                return False
            counted += 1
            if counted == number:
                self.struck = seen
                self.operator.kill()
            return counted >= number

        self.proxy.hold(strike, when)

    def spare(self) -> None:
        """Take the last ``kill_at`` back."""
        self._armed = None

    def note(self, seen: Seen) -> bool:
        """Remember a write; holds nothing."""
        if is_work(seen):
            self.wrote.append((time.monotonic(), seen))
        return False

    async def leads(self) -> bool:
        """Whether it leads and has planned."""
        return not self.operator.ended() and "modelfleet_operator_leader 1.0" in (await self.operator.ask("/metrics"))[1] and await self.cycles() > 0

    async def cycles(self) -> float:
        return await self.operator.metric("modelfleet_operator_cycles_total")


class Lives:
    """Keeps ``count`` operators running, as a Deployment would. ``settings`` without their prefix."""

    def __init__(self, server: Server, scene: Scene, folder: Path, count: int, settings: dict[str, str]) -> None:
        self._server, self._scene, self._folder, self._count = server, scene, folder, count
        self._settings = {**LEASE_OF_TWO_SECONDS, "PACE_RESYNC": str(RESYNC), "SCRAPE_INTERVAL": "30"} | settings
        self.all: list[Life] = []

    async def start(self) -> Life:
        """One more."""
        proxy = await ApiProxy(self._server).__aenter__()  # type: ignore[arg-type]
        operator = OperatorProcess(self._folder, proxy.kubeconfig(self._folder), self._scene.namespace, **self._settings)
        life = Life(operator, proxy)
        proxy.hold(life.note)
        self.all.append(life)
        return life

    @property
    def running(self) -> list[Life]:
        return [life for life in self.all if not life.operator.ended()]

    async def keep(self) -> None:
        """Replace who has ended, for ever."""
        while True:
            for _ in range(self._count - len(self.running)):
                await self.start()
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        for life in self.all:
            if not life.operator.ended():
                life.operator.signal(signal.SIGCONT)
            life.operator.close()
            await life.proxy.__aexit__()

    def story(self) -> str:
        return "\n".join(life.operator.story()[-3000:] for life in self.all[-3:])

    async def leader(self) -> Life:
        """Whoever leads; waits until somebody does."""

        async def found() -> Life | None:
            for life in self.running:
                if await life.leads():
                    return life
            return None

        return await eventually(found, self.story, SETTLE_SECONDS)

    def work(self) -> int:
        """Writes of all lives that are not the Lease's."""
        return sum(len(life.wrote) for life in self.all)

    async def quiet(self) -> Life:
        """Wait until a leader went through a few cycles without a write, while nothing in the cluster was on its way; answers the leader."""

        async def rested() -> Life | None:
            leader = await self.leader()
            before, cycles = self.work(), await leader.cycles()
            while await leader.cycles() < cycles + QUIET_CYCLES:
                if leader.operator.ended() or self.work() != before:
                    return None
                await asyncio.sleep(0.1)
            if await self._scene.at_rest() or self.work() != before:
                return None
            return leader

        try:
            return await eventually(rested, self.story, SETTLE_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"never quiet; unfinished: {await self._scene.at_rest() or 'nothing'}; {self.work()} writes\n{error}") from None

    async def ends_or_is_quiet(self, life: Life) -> bool:
        """Wait for the one or the other; True: it is quiet, and nobody killed it."""

        async def over() -> bool:
            if life.operator.ended():
                return True
            before = len(life.proxy.seen)
            if not await life.leads():
                return False
            cycles = await life.cycles()
            while not life.operator.ended() and await life.cycles() < cycles + QUIET_CYCLES:
                await asyncio.sleep(0.1)
            return life.operator.ended() or not any(is_work(seen) for seen in life.proxy.seen[before:])

        await eventually(over, life.operator.story, SETTLE_SECONDS)
        return not life.operator.ended()

    async def same(self, reference: Objects) -> None:
        """Quiet, with the same objects as the reference, and no write while several more cycles look at them."""
        try:
            await eventually(lambda: self._is(reference), "the same objects", SAME_SECONDS)
        except AssertionError:
            lines = "\n".join(differences(reference, await self._scene.objects()))
            raise AssertionError(f"{self.story()}\nnot the objects of the undisturbed run:\n{lines}") from None
        await self.quiet()
        assert list(differences(reference, await self._scene.objects())) == []

    async def _is(self, reference: Objects) -> bool:
        await self.quiet()
        return await self._scene.objects() == reference

    def reigns(self) -> list[tuple[float, float]]:
        """From the first to the last write of each life that wrote, in order."""
        return sorted((life.wrote[0][0], life.wrote[-1][0]) for life in self.all if life.wrote)

    def assert_one_writer_at_a_time(self) -> None:
        """The reigns do not overlap."""
        reigns = self.reigns()
        assert all(ended < began for (_, ended), (began, _) in pairwise(reigns)), reigns


@asynccontextmanager
async def living(server: Server, scene: Scene, folder: Path, count: int = 1, **settings: str) -> AsyncIterator[Lives]:
    """Operators of a scene; gone at the end."""
    lives = Lives(server, scene, folder, count, settings)
    for _ in range(count):
        await lives.start()
    keeper = asyncio.create_task(lives.keep())
    try:
        yield lives
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await lives.close()


def is_request(seen: Seen) -> bool:
    """Anything but the Lease's."""
    return not is_lease(seen)


def held_write(life: Life, matches: Callable[[Seen], bool]) -> Hold:
    """Hold the writes that match, and all that come after the first of them."""
    began: list[Any] = []

    def holds(seen: Seen) -> bool:
        if is_work(seen) and (began or matches(seen)):
            began.append(seen)
        return bool(began) and is_work(seen)

    return life.proxy.hold(holds)
