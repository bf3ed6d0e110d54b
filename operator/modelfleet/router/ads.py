"""The ADS server: a RoutingPlan into one Envoy, and Envoy's own words back.

Decided here: when a resource is sent (clusters and endpoints before routes; a cluster is deleted only after routes without it were
acknowledged and ``grace`` seconds have passed, since retries in flight still look it up) and whose fault a refusal is. A refused push
is halved until one policy is left: that one keeps its last good form, the others are served. Not decided here: what the resources
say (``core/routing/xds``). Nothing is sent before the first ``publish``, so Envoy keeps what it has while a router starts. A router that starts anew
finds in a file beside the sockets which clusters its Envoy runs: routes still name those that the new plan does not.

Values of Secrets go to Envoy and nowhere else: their versions are resourceVersions, and what Envoy says about them is not repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from modelfleet.core.routing.ir import PolicyPlan, RoutingPlan, SecretRef, TeamRoute
from modelfleet.core.routing.rewrite import REWRITE_FILE, REWRITE_SOURCE
from modelfleet.core.routing.xds import GatewaySettings, Resources, resources, secret_name

from .protos import CDS, EDS, LDS, RDS, SDS, add_ads, discovery, make_secret, pack
from .slices import Slice, effective, slices, words

__all__ = ["AdsServer"]

log = logging.getLogger(__name__)

_ORDER: Final = (CDS, EDS, SDS, LDS, RDS)
_WHOLE: Final = (CDS, LDS)  # state of the world: each response carries all of them; the others carry what changed
_CLUSTERS_FILE: Final = "clusters.pb"

Register = Callable[[Any], None]
Secrets = Mapping[SecretRef, tuple[str, bytes]]


@dataclass(slots=True)
class _Snapshot:
    """What Envoy should have: type -> name -> (resource, hash of it)."""

    resources: dict[str, dict[str, tuple[Any, str]]] = field(default_factory=lambda: {t: {} for t in _ORDER})

    def version(self, type_url: str, names: Iterable[str]) -> str:
        """A hash of what these names hold now."""
        held = self.resources[type_url]
        return hashlib.sha256("".join(f"{n}={held[n][1]};" for n in sorted(names) if n in held).encode()).hexdigest()[:16]


@dataclass(slots=True)
class _Subscription:
    """One type on one stream. ``sent``: name -> hash that Envoy was given; ``waiting``: a response is not answered yet.

    ``offered``: the resources of that response.
    """

    names: frozenset[str] = frozenset()
    sent: dict[str, str] = field(default_factory=dict)
    nonce: str = ""
    version: str | None = None
    acked: str | None = None
    refused: str | None = None
    message: str = ""
    waiting: bool = False
    offered: dict[str, tuple[Any, str]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Stream:
    """One connection of an Envoy."""

    number: int
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    types: dict[str, _Subscription] = field(default_factory=dict)
    complete: bool = False


@dataclass(slots=True)
class _Leaving:
    """A cluster no policy names any more. ``since``: when routes without it were acknowledged."""

    cluster: tuple[Any, str]
    endpoints: tuple[Any, str] | None
    since: float | None = None


class AdsServer:
    """Serves CDS, EDS, LDS, RDS and SDS to one Envoy over a Unix socket. Single-threaded: use it from one event loop."""

    def __init__(self, settings: GatewaySettings, *, grace: float = 30.0, on_change: Callable[[], None] | None = None) -> None:
        """``grace`` in seconds; ``on_change`` is called after ``acked``, ``rejected`` or ``ready`` have changed."""
        self._settings = settings
        self._grace = grace
        self._on_change = on_change or (lambda: None)
        self._server: Any = None
        self._stream: _Stream | None = None
        self._streams: set[_Stream] = set()
        self._numbers = count(1)
        self._nonces = count(1)
        self._plan: RoutingPlan | None = None
        self._secrets: Secrets = {}
        self._snapshot = _Snapshot()
        self._good: dict[str, Slice] = {}
        self._pushed: dict[str, Slice] = {}
        self._queue: list[list[str]] = []
        self._guilty: dict[str, tuple[Slice, str]] = {}
        self._in_envoy: dict[str, tuple[Any, str]] = {}
        self._leaving: dict[str, _Leaving] = {}
        self._parsed: dict[tuple[str, str], tuple[Any, tuple[Any, str]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self.refusals = 0

    # --- what others ask ---

    @property
    def ready(self) -> bool:
        """True while a connected Envoy has acknowledged everything of some push since it connected."""
        return self._stream is not None and self._stream.complete

    @property
    def acked(self) -> Mapping[str, str]:
        """Policy key, or ``team:<key>``, -> version of the slice that the connected Envoy runs; empty while none is connected."""
        return {key: s.part.version for key, s in sorted(self._good.items())} if self.ready else {}

    @property
    def running(self) -> Mapping[str, PolicyPlan]:
        """Policy key -> the slice Envoy runs: what a decision may name."""
        return {key: s.part for key, s in sorted(self._good.items()) if isinstance(s.part, PolicyPlan)}

    @property
    def running_teams(self) -> Mapping[str, TeamRoute]:
        """``team:<key>`` -> the names Envoy knows of that team."""
        return {key: s.part for key, s in sorted(self._good.items()) if isinstance(s.part, TeamRoute)}

    @property
    def rejected(self) -> Mapping[str, str]:
        """Policy key -> what Envoy said of its present form."""
        return {key: message for key, (_, message) in sorted(self._guilty.items())}

    async def start(self, path: str, *register: Register) -> None:
        """Listen on a Unix socket (mode 0660). ``register`` adds further services to the same gRPC server (access logs)."""
        self._prepare(Path(path))
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
        add_ads(self.stream, self._server)
        for add in register:
            add(self._server)
        self._server.add_insecure_port(f"unix:{path}")
        await self._server.start()
        os.chmod(path, 0o660)  # noqa: PTH101 - instant, and pathlib's is taken for blocking here

    def _prepare(self, socket: Path) -> None:
        (Path(self._settings.run_dir) / REWRITE_FILE).write_text(REWRITE_SOURCE)
        socket.unlink(missing_ok=True)
        with suppress(OSError, DecodeError):
            held = discovery.DeltaDiscoveryResponse.FromString((Path(self._settings.run_dir) / _CLUSTERS_FILE).read_bytes())
            self._in_envoy = {r.name: (r.resource, r.version) for r in held.resources}

    def _remember_clusters(self) -> None:
        """For the router after this one. No secret is among them."""
        held = [discovery.Resource(name=name, version=version, resource=cluster) for name, (cluster, version) in sorted(self._in_envoy.items())]
        fresh = Path(self._settings.run_dir) / f"{_CLUSTERS_FILE}.new"
        try:
            fresh.write_bytes(discovery.DeltaDiscoveryResponse(resources=held).SerializeToString())
            fresh.replace(fresh.with_suffix(""))
        except OSError as error:
            log.warning("cannot remember which clusters Envoy runs: %s", error)

    async def stop(self) -> None:
        """Close every stream. Envoy keeps what it has."""
        if self._timer is not None:
            self._timer.cancel()
        self._stopping = True
        for stream in self._streams:
            stream.changed.set()
        if self._server is not None:
            await self._server.stop(grace=0.2)

    async def publish(self, plan: RoutingPlan, secrets: Secrets) -> None:
        """Make Envoy run this plan. ``secrets``: ref -> (resourceVersion, value). Does not wait for Envoy; see ``acked`` and ``rejected``.

        The resources are made in a thread, so that no decision waits for those of hundreds of policies. Call it again only when it has returned.
        """
        before, wanted = None if self._plan is None else slices(self._plan), slices(plan)
        anew = wanted != before
        tried = self._to_try(wanted) if anew else self._pushed
        made = await asyncio.to_thread(self._make, plan, tried)
        self._plan, self._secrets = plan, dict(secrets)
        if anew:
            self._begin(wanted)
        # what Envoy said in the meantime may have changed what is pushed
        self._rebuild(made if self._pushed == tried else None)

    def _make(self, plan: RoutingPlan, tried: Mapping[str, Slice]) -> Resources:
        """The resources, parsed ahead: what was parsed before is looked up, and what is new is kept for the snapshot."""
        made = resources(effective(plan, tried), self._settings)
        for type_url, found in ((LDS, made.listeners), (RDS, made.routes), (CDS, made.clusters), (EDS, made.endpoints)):
            for name, raw in found.items():
                self._parse(type_url, name, raw)
        return made

    def _begin(self, wanted: Mapping[str, Slice]) -> None:
        """Try every policy in its wanted form at once. Not for addresses alone: pods that come and go must not restart a search for the guilty."""
        self._pushed = self._to_try(wanted)
        self._guilty = {k: g for k, g in self._guilty.items() if wanted.get(k) == g[0]}
        self._queue = []

    def _to_try(self, wanted: Mapping[str, Slice]) -> dict[str, Slice]:
        """The wanted forms, but for those that Envoy has refused: these stay as they were, if they were."""
        refused = {k for k, (form, _) in self._guilty.items() if wanted.get(k) == form}
        return {k: s for k, s in ((k, self._good.get(k) if k in refused else s) for k, s in wanted.items()) if s is not None}

    # --- snapshot ---

    def _rebuild(self, made: Resources | None = None) -> None:
        """``made``: the resources of what is pushed, where they are at hand."""
        if self._plan is None:
            return
        made = made or resources(effective(self._plan, self._pushed), self._settings)
        snapshot = _Snapshot()
        for type_url, found in ((LDS, made.listeners), (RDS, made.routes), (CDS, made.clusters), (EDS, made.endpoints)):
            snapshot.resources[type_url] = {name: self._parse(type_url, name, raw) for name, raw in found.items()}
        snapshot.resources[SDS] = self._secret_resources(made)
        self._keep_leaving(snapshot)
        self._parsed = {key: value for key, value in list(self._parsed.items()) if key[1] in snapshot.resources[key[0]]}
        self._snapshot = snapshot
        for stream in self._streams:
            stream.changed.set()
        if self._stream is not None:
            self._repeat(self._stream)

    def _parse(self, type_url: str, name: str, raw: Any) -> tuple[Any, str]:
        known = self._parsed.get((type_url, name))
        if known is not None and known[0] == raw:
            # the next comparison is of one and the same object, so it is instant
            self._parsed[type_url, name] = (raw, known[1])
            return known[1]
        packed = pack(raw)
        result = (packed, hashlib.sha256(packed.value).hexdigest()[:16])
        self._parsed[type_url, name] = (raw, result)
        return result

    def _secret_resources(self, made: Resources) -> dict[str, tuple[Any, str]]:
        held = {}
        for name, ref in made.secrets.items():
            if ref in self._secrets:
                version, value = self._secrets[ref]
                held[name] = (make_secret(secret_name(ref), b"Bearer " + value.strip()), version)
        return held

    def _keep_leaving(self, snapshot: _Snapshot) -> None:
        now, clusters, endpoints = asyncio.get_running_loop().time(), snapshot.resources[CDS], snapshot.resources[EDS]
        for name, cluster in self._in_envoy.items():
            if name not in clusters and name not in self._leaving:
                self._leaving[name] = _Leaving(cluster, self._snapshot.resources[EDS].get(name))
        for name, leaving in list(self._leaving.items()):
            over = leaving.since is not None and now >= leaving.since + self._grace
            if name in clusters or over:
                del self._leaving[name]
                if over:
                    self._in_envoy.pop(name, None)
                continue
            clusters[name] = leaving.cluster
            if leaving.endpoints is not None:
                endpoints[name] = leaving.endpoints

    # --- the stream ---

    async def stream(self, requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
        """One Envoy's stream: answer what it asks, send what changes."""
        stream = _Stream(next(self._numbers))
        self._stream = stream
        self._streams.add(stream)
        reader = asyncio.create_task(self._read(stream, requests))
        try:
            while not reader.done() and not self._stopping:
                for response in self._due(stream):
                    yield response
                await stream.changed.wait()
                stream.changed.clear()
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await reader
            self._streams.discard(stream)
            if self._stream is stream:
                self._stream = None
                self._on_change()

    async def _read(self, stream: _Stream, requests: AsyncIterator[Any]) -> None:
        try:
            async for request in requests:
                self._heard(stream, request)
                stream.changed.set()
        finally:
            stream.changed.set()

    def _heard(self, stream: _Stream, request: Any) -> None:
        subscription = stream.types.setdefault(request.type_url, _Subscription())
        if request.response_nonce and request.response_nonce != subscription.nonce:
            return
        subscription.names = frozenset(request.resource_names)
        if request.type_url not in _WHOLE:
            subscription.sent = {n: h for n, h in subscription.sent.items() if n in subscription.names}
        if not request.response_nonce or not subscription.waiting:
            return
        subscription.waiting = False
        if request.HasField("error_detail"):
            subscription.refused, subscription.message = subscription.version, request.error_detail.message
            self._refused(stream, request.type_url, request.error_detail.message)
        else:
            subscription.acked, subscription.refused = subscription.version, None
            if request.type_url == CDS:
                self._in_envoy = dict(subscription.offered)
                self._remember_clusters()
            self._settle(stream)

    def _due(self, stream: _Stream) -> Iterable[Any]:
        """Responses to send now, in the safe order; at most one unanswered per type."""
        if self._plan is None:
            return
        for type_url in _ORDER:
            subscription = stream.types.get(type_url)
            if subscription is None or subscription.waiting or not self._may_send(stream, type_url):
                continue
            response = self._response(subscription, type_url, stream)
            if response is not None:
                yield response

    def _may_send(self, stream: _Stream, type_url: str) -> bool:
        """Listeners and routes wait until the clusters they name are acknowledged."""
        clusters = stream.types.get(CDS)
        if type_url not in (LDS, RDS):
            return True
        return clusters is not None and clusters.acked == self._snapshot.version(CDS, self._snapshot.resources[CDS])

    def _response(self, subscription: _Subscription, type_url: str, stream: _Stream) -> Any:
        held = self._snapshot.resources[type_url]
        names = held if type_url in _WHOLE else [n for n in sorted(subscription.names) if n in held]
        changed = [n for n in names if subscription.sent.get(n) != held[n][1]]
        version = self._snapshot.version(type_url, names)
        if version == subscription.version if type_url in _WHOLE else not changed:
            return None
        if type_url == CDS and EDS in stream.types:
            # a cluster that is replaced warms up again, and waits for its endpoints though they are the same
            for name in changed:
                stream.types[EDS].sent.pop(name, None)
        for name in changed:
            subscription.sent[name] = held[name][1]
        subscription.version, subscription.nonce, subscription.waiting = version, str(next(self._nonces)), True
        sent = names if type_url in _WHOLE else changed
        subscription.offered = {n: held[n] for n in sent}
        return discovery.DiscoveryResponse(version_info=version, type_url=type_url, nonce=subscription.nonce, resources=[held[n][0] for n in sorted(sent)])

    # --- acknowledged and refused ---

    def _repeat(self, stream: _Stream) -> None:
        """What Envoy has answered before is not sent again, so its answer is taken as given: a lot may differ from the last one in policies alone."""
        clusters = stream.types.get(CDS)
        if clusters is not None and not clusters.waiting and clusters.refused == self._snapshot.version(CDS, self._snapshot.resources[CDS]):
            self._refused(stream, CDS, clusters.message)
        elif stream.complete:
            self._settle(stream)

    def _settle(self, stream: _Stream) -> None:
        """After every ACK: once all of the present push is acknowledged, it is what is good."""
        if stream is not self._stream or any(not self._has_acked(stream, t) for t in (CDS, LDS, RDS)):
            return
        before = (self.ready, self.acked)
        stream.complete = True
        self._good = dict(self._pushed)
        self._start_leaving()
        if self._queue:
            self._push_next()
        if (self.ready, self.acked) != before:
            self._on_change()

    def _has_acked(self, stream: _Stream, type_url: str) -> bool:
        subscription, held = stream.types.get(type_url), self._snapshot.resources[type_url]
        return subscription is not None and not subscription.waiting and subscription.acked == self._snapshot.version(type_url, held)

    def _start_leaving(self) -> None:
        loop = asyncio.get_running_loop()
        fresh = [leaving for leaving in self._leaving.values() if leaving.since is None]
        for leaving in fresh:
            leaving.since = loop.time()
        if fresh:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_later(self._grace + 0.01, self._rebuild)

    def _refused(self, stream: _Stream, type_url: str, message: str) -> None:
        self.refusals += 1
        shown = "a secret" if type_url == SDS else words(message)
        log.warning("envoy refused %s: %s", type_url.rpartition(".")[2], shown)
        if stream is not self._stream or type_url not in (CDS, RDS):
            return
        suspects = sorted(k for k, s in self._pushed.items() if self._good.get(k) != s)
        if len(suspects) <= 1:
            for key in suspects:
                self._guilty[key] = (self._pushed[key], shown)
            self._push_next()
            self._on_change()
            return
        half = len(suspects) // 2
        self._queue += [suspects[half:], suspects[:half]]
        self._push_next()

    def _push_next(self) -> None:
        """What is good, and the next lot of suspects in their wanted form. A refused policy stays in its last good form."""
        wanted = {} if self._plan is None else slices(self._plan)
        lot = self._queue.pop() if self._queue else []
        pushed = {k: s for k, s in self._good.items() if k in wanted}
        pushed |= {k: wanted[k] for k in lot if k in wanted and k not in self._guilty}
        self._pushed = pushed
        self._rebuild()
