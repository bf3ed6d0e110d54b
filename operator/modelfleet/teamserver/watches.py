"""What a team runtime sees of the API server: teams, pools and policies -> the plan of all teams.

Decided here: which collections are watched, and that nothing may be compiled before all of them were listed once. An object that cannot be read keeps its
last readable form. While the API server is away, what was seen last stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from modelfleet.api.v1alpha1 import AgentTeam, ModelPool, RoutingPolicy
from modelfleet.api.v1alpha1.common import Kind
from modelfleet.core.teams.compile import compile_teams
from modelfleet.core.teams.ir import TeamsPlan
from modelfleet.kube.client import Client
from modelfleet.kube.informer import Informer
from modelfleet.kube.records import reader_of
from modelfleet.kube.resources import AGENT_TEAMS, MODEL_POOLS, ROUTING_POLICIES, Resource

__all__ = ["Watches"]

KindT = TypeVar("KindT", bound=Kind)


class Watches:
    """The watches of one team runtime. ``on_news(key)`` hears every difference, ``on_deleted(key)`` of each team that is no more."""

    def __init__(self, client: Client, namespaces: tuple[str, ...], on_news: Callable[[str], None], on_deleted: Callable[[str], None]) -> None:
        def hear(key: str, _old: object, _new: object) -> None:
            on_news(key)

        def hear_team(key: str, _old: object, new: object) -> None:
            on_news(key)
            if new is None:
                on_deleted(key)

        def watch(resource: Resource, kind: type[KindT], hear: Callable[[str, object, object], None]) -> list[Informer[KindT]]:
            return [Informer(client, resource, reader_of(kind), hear, namespace=namespace) for namespace in namespaces or (None,)]

        self._teams = watch(AGENT_TEAMS, AgentTeam, hear_team)
        self._pools = watch(MODEL_POOLS, ModelPool, hear)
        self._policies = watch(ROUTING_POLICIES, RoutingPolicy, hear)
        self._informers: list[Informer[Any]] = [*self._teams, *self._pools, *self._policies]

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self._informers:
                group.create_task(informer.run(), name=f"watch {informer.resource.plural}")

    async def synced(self) -> None:
        """Wait until everything was listed once."""
        for informer in self._informers:
            await informer.synced.wait()

    @property
    def teams(self) -> Mapping[str, AgentTeam]:
        """Teams by key."""
        return _merged(self._teams)

    def compile(self) -> TeamsPlan:
        """The plan of what is seen now; the operator makes the same one of the same objects."""
        return compile_teams(_sorted(self._teams), _sorted(self._pools), _sorted(self._policies))


def _merged(informers: list[Informer[KindT]]) -> dict[str, KindT]:
    return {key: value for informer in informers for key, value in informer.objects.items()}


def _sorted(informers: list[Informer[KindT]]) -> tuple[KindT, ...]:
    return tuple(value for _, value in sorted(_merged(informers).items()))
