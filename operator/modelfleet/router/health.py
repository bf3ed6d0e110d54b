"""Whether each remote endpoint answers: what finished requests showed, and a probe of its own for when none go there.

Decided here: the word for an outcome (KeyRefused, Unreachable, RateLimited, SecretMissing, EndpointNotAllowed) and when an endpoint is asked again. A probe
is ``GET <url>/models`` with the endpoint's key, which never enters a log or an error; redirects are not followed. It connects only to addresses it has
checked (``core/routing/egress.py``): a name that leads to one that is not allowed is not asked at all, and its endpoint leaves every chain.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from modelfleet.api.conditions import FlavorReason
from modelfleet.core.routing.egress import Egress
from modelfleet.core.routing.ir import RemoteCluster, SecretRef

from .metrics import RouterMetrics

__all__ = ["EndpointHealth", "Prober", "probe_outcome"]

UP: Final = ""
_log = logging.getLogger(__name__)
_EVERY: Final = 15.0
_SELDOM: Final = 120.0
_TIMEOUT: Final = 5.0
_ADDRESSES: Final = 4
"""Addresses of one name that are tried until one accepts the connection."""


class EndpointHealth:
    """The last word on each remote endpoint, mirrored into the gauge. ``on_barred`` hears when an endpoint became EndpointNotAllowed or ceased to be."""

    def __init__(self, metrics: RouterMetrics, on_barred: Callable[[], None] = lambda: None) -> None:
        self._gauge = metrics.endpoint_up
        self._on_barred = on_barred
        self._reasons: dict[tuple[str, str], str] = {}

    def reason(self, pool: str, flavor: str) -> str | None:
        """Why an endpoint is down; empty: it is up; None: not observed yet."""
        return self._reasons.get((pool, flavor))

    def barred(self) -> frozenset[tuple[str, str]]:
        """(pool, flavor) of endpoints that lead where they may not."""
        return frozenset(key for key, reason in self._reasons.items() if reason == FlavorReason.ENDPOINT_NOT_ALLOWED)

    def observe(self, pool: str, flavor: str, reason: str, *, probed: bool = False) -> None:
        """Take note of an outcome (empty: it served). Where a name leads is for the probe alone to say: a request in flight does not clear it."""
        before = self._reasons.get((pool, flavor))
        if before == reason or (before == FlavorReason.ENDPOINT_NOT_ALLOWED and not probed):
            return
        self._reasons[pool, flavor] = reason
        self._gauge.labels(pool, flavor, reason).set(0 if reason else 1)
        if before is not None:
            self._gauge.remove(pool, flavor, before)
        _log.info("endpoint %s/%s is %s", pool, flavor, f"down: {reason}" if reason else "up")
        if FlavorReason.ENDPOINT_NOT_ALLOWED in (before, reason):
            self._on_barred()

    def keep(self, endpoints: Iterable[tuple[str, str]]) -> None:
        """Forget every endpoint but these."""
        for pool, flavor in set(self._reasons) - set(endpoints):
            self._gauge.remove(pool, flavor, self._reasons.pop((pool, flavor)))


def probe_outcome(status: int, before: str | None) -> str:
    """What a probe's HTTP status says; a 404 or 405 (no list of models there) proves a connection and no key."""
    if status in (401, 403):
        return FlavorReason.KEY_REFUSED
    if status == 429:
        return FlavorReason.RATE_LIMITED
    if status >= 500:
        return FlavorReason.UNREACHABLE
    if status >= 300 and before == FlavorReason.KEY_REFUSED:
        return FlavorReason.KEY_REFUSED
    return UP


@dataclass(slots=True)
class _Target:
    remote: RemoteCluster
    key: bytes | None
    wait: float
    due: float


class Prober:
    """Asks each remote endpoint every 15 s, and less often, down to every 2 minutes, while it stays down for the same reason."""

    def __init__(self, health: EndpointHealth, ca_file: str, egress: Egress, *, every: float = _EVERY) -> None:
        """``every`` in seconds; ``egress``: where endpoints may point."""
        self._health = health
        self._egress = egress
        self._ca_file = ca_file
        self._every = every
        self._targets: dict[str, _Target] = {}
        self._wake = asyncio.Event()

    def watch(self, remotes: Iterable[RemoteCluster], secrets: Mapping[SecretRef, tuple[str, bytes]]) -> None:
        """Probe these from now on; a new endpoint or a new key is asked at once."""
        now = asyncio.get_running_loop().time()
        targets: dict[str, _Target] = {}
        for remote in remotes:
            key = secrets[remote.secret][1].strip() if remote.secret in secrets and remote.secret is not None else None
            known = self._targets.get(remote.name)
            same = known is not None and known.remote == remote and known.key == key
            targets[remote.name] = known if same and known is not None else _Target(remote, key, self._every, now)
        self._targets = targets
        self._wake.set()

    async def run(self) -> None:
        """Probe until cancelled."""
        async with _http_client(self._ca_file) as client:
            while True:
                now = asyncio.get_running_loop().time()
                due = [target for target in self._targets.values() if target.due <= now]
                await asyncio.gather(*(self._ask(client, target) for target in due))
                await self._rest()

    async def _rest(self) -> None:
        now = asyncio.get_running_loop().time()
        soonest = min((target.due for target in self._targets.values()), default=now + self._every)
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wake.wait(), max(0.0, soonest - now))
        except TimeoutError:
            return

    async def _ask(self, client: httpx.AsyncClient, target: _Target) -> None:
        remote = target.remote
        before = self._health.reason(remote.pool, remote.flavor)
        reason = await self._outcome(client, target, before)
        failing = bool(reason) and reason == before
        target.wait = min(target.wait * 2, _SELDOM) if failing else self._every
        target.due = asyncio.get_running_loop().time() + target.wait
        if self._targets.get(remote.name) is target:
            self._health.observe(remote.pool, remote.flavor, reason, probed=True)

    async def _outcome(self, client: httpx.AsyncClient, target: _Target, before: str | None) -> str:
        remote = target.remote
        if not self._egress.permits(remote.host):
            return FlavorReason.ENDPOINT_NOT_ALLOWED
        if remote.secret is not None and target.key is None:
            return FlavorReason.SECRET_MISSING
        try:
            addresses = await asyncio.wait_for(_addresses(remote.host, remote.port), _TIMEOUT)
        except (OSError, UnicodeError):
            return FlavorReason.ENDPOINT_NOT_ALLOWED if before == FlavorReason.ENDPOINT_NOT_ALLOWED else FlavorReason.UNREACHABLE
        if not all(self._egress.permits_address(remote.host, address) for address in addresses):
            return FlavorReason.ENDPOINT_NOT_ALLOWED
        return await _probe(client, target, addresses[:_ADDRESSES], before)


async def _addresses(host: str, port: int) -> list[str]:
    """What a name resolves to, IPv4 first as for Envoy. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ordered = sorted(found, key=lambda info: info[0] != socket.AF_INET)
    return list(dict.fromkeys(str(info[4][0]) for info in ordered))


async def _probe(client: httpx.AsyncClient, target: _Target, addresses: Iterable[str], before: str | None) -> str:
    """Ask the first address that accepts a connection, under the name that its URL gives."""
    remote = target.remote
    default = remote.port == (443 if remote.tls else 80)
    headers = {"host": remote.host if default else f"{remote.host}:{remote.port}"}
    headers |= {"authorization": f"Bearer {target.key.decode('ascii', 'replace')}"} if target.key is not None else {}
    for address in addresses:
        url = f"{'https' if remote.tls else 'http'}://{f'[{address}]' if ':' in address else address}:{remote.port}{remote.path_prefix}/models"
        try:
            async with client.stream("GET", url, headers=headers, extensions={"sni_hostname": remote.host}) as response:
                return probe_outcome(response.status_code, before)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            continue
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError):
            break
    return FlavorReason.UNREACHABLE


def _http_client(ca_file: str) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=ca_file if Path(ca_file).is_file() else None)
    return httpx.AsyncClient(verify=context, timeout=_TIMEOUT, follow_redirects=False, trust_env=False)
