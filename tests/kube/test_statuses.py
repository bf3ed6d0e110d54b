"""When a part of a status is written, and when again: on a client that says what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from modelfleet.api.v1alpha1 import AgentTeam
from modelfleet.api.v1alpha1.common import ObjectMeta
from modelfleet.errors import ApiError, NotFound
from modelfleet.kube.resources import AGENT_TEAMS
from modelfleet.kube.statuses import Part, StatusWriter


class Enough(Exception):
    """The rounds that a test wanted have been."""


class World:
    """An API server of one writer: ``answers`` decides about each write; ``after`` happens after each round."""

    def __init__(self) -> None:
        self.version = self.watched = 1
        self.wanted: dict[str, str] = {"ns/a": "one"}
        self.seen: dict[str, str] = {}
        self.writes: list[tuple[str, str]] = []
        self.pauses: list[float] = []
        self.answers: Callable[[], Exception | None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        part: Part[AgentTeam, str] = Part(AGENT_TEAMS, "test", lambda: self.wanted, lambda team, truth: self.seen.get(_key(team)) == truth, _status)
        self.writer = StatusWriter(self, part, self.objects, sleep=self.sleep)  # type: ignore[arg-type]
        self.rounds = 0

    def objects(self) -> dict[str, AgentTeam]:
        return {key: _team(key, self.watched) for key in self.seen}

    async def apply(self, _resource: object, namespace: str, name: str, body: dict[str, Any], _manager: str, *, subresource: str) -> dict[str, Any]:
        assert subresource == "status"
        self.writes.append((f"{namespace}/{name}", body["status"]["says"]))
        if (error := self.answers()) is not None:
            raise error
        self.version += 1
        return {"metadata": {"resourceVersion": str(self.version)}}

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.after()
        self.rounds -= 1
        if not self.rounds:
            raise Enough

    async def run(self, rounds: int) -> list[float]:
        self.rounds = rounds
        self.writer.look()
        with contextlib.suppress(Enough):
            async with asyncio.timeout(20):
                await self.writer.run()
        return self.pauses

    def shown(self) -> None:
        """The watch shows what was written last."""
        self.watched, self.seen = self.version, dict(self.writes)

    def removed(self) -> None:
        """Somebody removes the part, the watch shows that, and news comes of it."""
        self.version = self.watched = self.version + 1
        self.seen = dict.fromkeys(self.wanted, "")
        self.writer.look()


def _key(team: AgentTeam) -> str:
    return f"{team.metadata.namespace}/{team.metadata.name}"


def _status(_key: str, truth: str) -> dict[str, Any]:
    return {"says": truth}


def _team(key: str, version: int) -> AgentTeam:
    namespace, _, name = key.partition("/")
    return AgentTeam.model_construct(metadata=ObjectMeta(name=name, namespace=namespace, resource_version=str(version)))


async def test_what_is_shown_is_not_written_and_what_is_written_is_not_written_again_before_the_watch_shows_it() -> None:
    world = World()
    world.seen = {"ns/a": "one"}
    assert await world.writer.write_changes()
    assert world.writes == []
    world.wanted = {"ns/b": "two", "ns/a": "two"}
    for _ in range(2):
        assert await world.writer.write_changes()
    assert world.writes == [("ns/a", "two"), ("ns/b", "two")]


async def test_a_part_that_does_not_stay_is_written_ever_more_seldom_until_it_stays() -> None:
    world = World()
    world.after = world.removed
    assert await world.run(8) == [1, 2, 4, 8, 16, 30, 30, 30]
    assert len(world.writes) == 8
    world.after, world.pauses = world.shown, []
    world.shown()
    assert await world.run(1) == [1]
    assert len(world.writes) == 8


async def test_a_part_that_is_to_say_something_new_is_no_repetition() -> None:
    world = World()

    def changed() -> None:
        world.removed()
        world.wanted = {"ns/a": f"now {world.version}"}

    world.after = changed
    assert await world.run(4) == [1, 1, 1, 1]


async def test_a_write_that_fails_is_tried_again_by_itself_ever_more_seldom() -> None:
    world = World()
    failures = iter([ApiError(0, "Unreachable", "away")] * 3)
    world.answers = lambda: next(failures, None)
    assert await world.run(4) == [2, 4, 8, 1]
    assert world.writes == [("ns/a", "one")] * 4


async def test_an_object_that_is_gone_is_no_failure() -> None:
    world = World()
    world.answers = lambda: NotFound(404, "NotFound", "gone")
    assert await world.writer.write_changes()
