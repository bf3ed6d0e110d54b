"""The Secrets that pools name, each watched singly. Values go to Envoy and to the prober, and nowhere else.

Decided here: which Secrets are wanted (those of remote endpoints behind some policy) and which of their keys are at hand. A Secret that may not be read counts
as missing: the log says what the API server said of it, and the policy's status names it.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from modelfleet.api.v1alpha1 import ModelPool, RoutingPolicy
from modelfleet.core.routing.ir import SecretRef
from modelfleet.kube.client import Client
from modelfleet.kube.informer import Informer
from modelfleet.kube.resources import SECRETS

__all__ = ["SecretWatches", "missing_secrets", "wanted_secrets"]

_log = logging.getLogger(__name__)
_PATIENCE: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Held:
    """One Secret's data; never shown."""

    version: str
    data: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Watch:
    informer: Informer[_Held]
    task: asyncio.Task[None]


def wanted_secrets(
    policies: Iterable[RoutingPolicy], pools: Mapping[str, ModelPool], teams: Mapping[str, Iterable[str]] | None = None
) -> dict[str, tuple[SecretRef, ...]]:
    """Key of a policy or a team in the plan -> the keys of Secrets that the endpoints behind it need, sorted.

    ``teams``: key in the plan -> the pools that the team's roles reach.
    """
    behind: dict[str, Iterable[str]] = {policy.key: _pools_of(policy) for policy in policies}
    return {
        name: tuple(sorted({ref for key in reached if key in pools for ref in _refs(pools[key])})) for name, reached in (behind | dict(teams or {})).items()
    }


def missing_secrets(wanted: Mapping[str, tuple[SecretRef, ...]], held: Iterable[SecretRef]) -> dict[str, tuple[str, ...]]:
    """Key -> what it lacks, as its status says it (``secret/<name>``), at most 16."""
    there = set(held)
    return {name: tuple(sorted({f"secret/{ref.name}" for ref in refs if ref not in there}))[:16] for name, refs in wanted.items()}


class SecretWatches:
    """One list-and-watch per Secret, started and stopped as policies come and go."""

    def __init__(self, client: Client, on_change: Callable[[], None]) -> None:
        self._client = client
        self._on_change = on_change
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._new: list[_Watch] = []

    def want(self, refs: Iterable[SecretRef]) -> None:
        """Watch exactly the Secrets of these refs."""
        names = {(ref.namespace, ref.name) for ref in refs}
        for name in set(self._watches) - names:
            self._watches.pop(name).task.cancel()
        for name in sorted(names - set(self._watches)):
            self._watches[name] = self._start(*name)
            self._new.append(self._watches[name])

    async def settle(self) -> None:
        """Wait until each newly watched Secret was heard of, at most 2 s: one that may not be read must not hold back the others for longer."""
        waits = [asyncio.ensure_future(watch.informer.synced.wait()) for watch in self._new]
        self._new = []
        if not waits:
            return
        _, late = await asyncio.wait(waits, timeout=_PATIENCE)
        for wait in late:
            wait.cancel()

    def values(self, refs: Iterable[SecretRef]) -> dict[SecretRef, tuple[str, bytes]]:
        """Ref -> (resourceVersion, value) of those that are at hand."""
        found: dict[SecretRef, tuple[str, bytes]] = {}
        for ref in refs:
            watch = self._watches.get((ref.namespace, ref.name))
            held = watch.informer.objects.get(f"{ref.namespace}/{ref.name}") if watch else None
            if held is not None and held.data.get(ref.key, b"").strip():
                found[ref] = (held.version, held.data[ref.key])
        return found

    def stop(self) -> None:
        """End every watch."""
        self.want(())

    def _start(self, namespace: str, name: str) -> _Watch:
        informer = Informer(
            self._client, SECRETS, _held, lambda _key, _old, _new: self._on_change(), namespace=namespace, field_selector=f"metadata.name={name}"
        )
        return _Watch(informer, asyncio.create_task(informer.run(), name=f"secret {namespace}/{name}"))


def _held(raw: Mapping[str, Any]) -> _Held:
    data: dict[str, bytes] = {}
    for key, value in (raw.get("data") or {}).items():
        try:
            data[key] = b64decode(value)
        except (binascii.Error, ValueError):
            _log.warning("secret %s/%s: key %s is not base64", raw["metadata"].get("namespace"), raw["metadata"]["name"], key)
    return _Held(raw["metadata"].get("resourceVersion", ""), data)


def _pools_of(policy: RoutingPolicy) -> list[str]:
    return [f"{policy.metadata.namespace}/{candidate.pool_ref.name}" for candidate in policy.spec.candidates]


def _refs(pool: ModelPool) -> list[SecretRef]:
    endpoints = [flavor.endpoint for flavor in pool.spec.flavors if flavor.endpoint is not None]
    return [SecretRef(pool.metadata.namespace, e.auth_secret_ref.name, e.auth_secret_ref.key) for e in endpoints if e.auth_secret_ref is not None]
