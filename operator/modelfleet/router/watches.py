"""What a router sees of the API server: pools, policies, teams, endpoint slices, and the Secrets these name -> one ``RoutingWorld``.

Decided here: which collections are watched and that nothing may be compiled before all of them were listed once. An object that cannot be read
keeps its last readable form. While the API server is away, what was seen last stands. An API server that knows no teams yet, since its
CustomResourceDefinitions are older than this router, has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, TypeVar

from modelfleet.api.v1alpha1 import AgentTeam, ModelPool, RoutingPolicy
from modelfleet.api.v1alpha1.common import Kind
from modelfleet.core.render.labels import POOL
from modelfleet.core.routing.ir import Address, RoutingWorld, SecretRef
from modelfleet.kube.client import Client
from modelfleet.kube.informer import Informer
from modelfleet.kube.records import Endpoints, endpoints_of, reader_of
from modelfleet.kube.resources import AGENT_TEAMS, ENDPOINT_SLICES, MODEL_POOLS, ROUTING_POLICIES

from .secrets import SecretWatches, missing_secrets, wanted_secrets
from .teams import TEAMS_SELECTOR, TeamNames, addresses_of

__all__ = ["Watches"]

KindT = TypeVar("KindT", bound=Kind)


class Watches:
    """The watches of one router. ``on_news(key)`` hears every difference; ``teams_namespace``: where the team runtime runs, None anywhere."""

    def __init__(self, client: Client, namespaces: tuple[str, ...], on_news: Callable[[str], None], teams_namespace: str | None = None) -> None:
        def hear(key: str, _old: object, _new: object) -> None:
            on_news(key)

        scopes: tuple[str | None, ...] = namespaces or (None,)
        self._pools = [Informer(client, MODEL_POOLS, reader_of(ModelPool), hear, namespace=n) for n in scopes]
        self._policies = [Informer(client, ROUTING_POLICIES, reader_of(RoutingPolicy), hear, namespace=n) for n in scopes]
        self._slices: list[Informer[Endpoints]] = [Informer(client, ENDPOINT_SLICES, endpoints_of, hear, namespace=n, label_selector=POOL) for n in scopes]
        self._teams = [Informer(client, AGENT_TEAMS, reader_of(AgentTeam), hear, namespace=n, optional=True) for n in scopes]
        self._runtime = Informer(client, ENDPOINT_SLICES, addresses_of, hear, namespace=teams_namespace, label_selector=TEAMS_SELECTOR)
        self._names = TeamNames()
        self._informers: list[Informer[Any]] = [*self._pools, *self._policies, *self._slices, *self._teams, self._runtime]
        self.secrets = SecretWatches(client, lambda: on_news("secrets"))

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for informer in self._informers:
                    group.create_task(informer.run(), name=f"watch {informer.resource.plural}")
        finally:
            self.secrets.stop()

    async def synced(self) -> None:
        """Wait until everything but the Secrets was listed once."""
        for informer in self._informers:
            await informer.synced.wait()

    @property
    def pools(self) -> Mapping[str, ModelPool]:
        """Pools by key."""
        return {key: pool for informer in self._pools for key, pool in informer.objects.items()}

    @property
    def policies(self) -> Mapping[str, RoutingPolicy]:
        """Policies by key."""
        return {key: policy for informer in self._policies for key, policy in informer.objects.items()}

    @property
    def teams(self) -> Mapping[str, AgentTeam]:
        """Teams by key."""
        return {key: team for informer in self._teams for key, team in informer.objects.items()}

    async def observe(self) -> tuple[RoutingWorld, dict[SecretRef, tuple[str, bytes]], dict[str, tuple[str, ...]]]:
        """The world now, the Secrets' values beside it (they never enter a world), and what each policy lacks. Waits for Secrets named just now."""
        self.secrets.want(chain.from_iterable(self._wanted().values()))
        await self.secrets.settle()
        pools, policies, teams, wanted = _sorted(self.pools), _sorted(self.policies), _sorted(self.teams), self._wanted()
        values = self.secrets.values(sorted(set(chain.from_iterable(wanted.values()))))
        world = RoutingWorld(
            pools=pools,
            policies=policies,
            addresses=self._addresses(),
            secrets=frozenset(values),
            teams=self._names.routes(teams, pools, policies),
            team_addresses=tuple(sorted({address for found in self._runtime.objects.values() for address in found})),
        )
        return world, values, missing_secrets(wanted, values)

    def _addresses(self) -> dict[str, tuple[Address, ...]]:
        ready: dict[str, set[Address]] = {}
        for informer in self._slices:
            for endpoints in informer.objects.values():
                ready.setdefault(endpoints.pool, set()).update(endpoints.addresses)
        return {pool: tuple(sorted(addresses)) for pool, addresses in sorted(ready.items())}

    def _wanted(self) -> dict[str, tuple[SecretRef, ...]]:
        reached = self._names.pools(_sorted(self.teams), _sorted(self.pools), _sorted(self.policies))
        return wanted_secrets(self.policies.values(), self.pools, reached)


def _sorted(objects: Mapping[str, KindT]) -> tuple[KindT, ...]:
    return tuple(value for _, value in sorted(objects.items()))
