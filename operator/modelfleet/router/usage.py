"""Envoy's access logs -> tokens, money, latencies and the health of remote endpoints.

Decided here: what one finished request adds to which counter. The server's own count of tokens is taken where it gave one; else tokens are
estimated from bytes by the ratio seen on that flavor, marked ``source="estimated"``. No prompt text is in a log line, and no key.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import grpc
import grpc.aio
from envoy.service.accesslog.v3 import als_pb2
from prometheus_client import Counter, Histogram

from modelfleet.api.conditions import FlavorReason
from modelfleet.core.routing.ir import Price, RoutingPlan
from modelfleet.core.routing.request import BYTES_PER_TOKEN

from .health import EndpointHealth
from .metrics import RouterMetrics
from .tokens import NAMESPACE, TokenCounts, token_counts

__all__ = ["Finished", "UsageReceiver", "finished_of"]

_log = logging.getLogger(__name__)
_AUTHZ: Final = "envoy.filters.http.ext_authz"
_STREAM_USAGE: Final = "modelfleet.usage"
_MILLION: Final = 1_000_000
_EVENT_BYTES: Final = 200.0
"""Bytes of one server-sent event, which carries about one token, until a flavor's own ratio is seen."""
_LEARN: Final = 0.1
_MOST_TOKENS: Final = 100_000_000
"""No request has more; a server that reports more reports nothing."""
_KEPT_SERIES: Final = 4096
"""Series of one metric that are found without asking the registry, which takes longer than reading a log entry's labels."""


@dataclass(frozen=True, slots=True)
class Finished:
    """One request as Envoy logged it. ``served`` and ``refused_by``: (pool, flavor); tokens None: the server did not say. Seconds."""

    decision: str
    policy: str
    rule: str
    served: tuple[str, str] | None
    refused_by: tuple[str, str] | None
    cluster: str
    code: int
    attempts: int
    streamed: bool
    connected: bool
    input_bytes: int
    output_bytes: int
    input_tokens: int | None = None
    output_tokens: int | None = None
    first_byte: float | None = None
    duration: float = 0.0


class UsageReceiver:
    """Counts finished requests. ``plan`` gives the prices and says which clusters are remote."""

    def __init__(self, metrics: RouterMetrics, health: EndpointHealth) -> None:
        self._requests: Callable[..., Counter] = lru_cache(_KEPT_SERIES)(metrics.requests.labels)
        self._counted: Callable[..., Counter] = lru_cache(_KEPT_SERIES)(metrics.tokens.labels)
        self._micro_usd: Callable[..., Counter] = lru_cache(_KEPT_SERIES)(metrics.micro_usd.labels)
        self._ttft: Callable[..., Histogram] = lru_cache(_KEPT_SERIES)(metrics.ttft.labels)
        self._health = health
        self._prices: Mapping[tuple[str, str], Price] = {}
        self._remotes: dict[str, tuple[str, str]] = {}
        self._ratios: dict[tuple[tuple[str, str], str], float] = {}

    def use(self, plan: RoutingPlan) -> None:
        """Count at this plan's prices from now on."""
        self._prices = plan.prices
        self._remotes = {remote.name: (remote.pool, remote.flavor) for remote in plan.remote_clusters}
        self._health.keep((remote.pool, remote.flavor) for remote in (*plan.remote_clusters, *plan.dropped))

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve ``envoy.service.accesslog.v3.AccessLogService`` on a gRPC server."""
        handler = grpc.stream_unary_rpc_method_handler(
            self.StreamAccessLogs,
            request_deserializer=als_pb2.StreamAccessLogsMessage.FromString,
            response_serializer=als_pb2.StreamAccessLogsResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("envoy.service.accesslog.v3.AccessLogService", {"StreamAccessLogs": handler}),))

    async def StreamAccessLogs(self, messages: AsyncIterator[Any], _context: object) -> Any:  # noqa: N802 - gRPC's name
        """One Envoy's stream of logs, until it hangs up."""
        async for message in messages:
            for entry in message.http_logs.log_entry:
                try:
                    self.count(finished_of(entry))
                except (ValueError, TypeError, KeyError):
                    _log.exception("an access log entry cannot be counted")
        return als_pb2.StreamAccessLogsResponse()

    def count(self, done: Finished) -> None:
        """Add one request to the counters."""
        pool, flavor = done.served or ("", "")
        self._requests(done.policy, done.rule, pool, flavor, str(done.code)).inc()
        self._judge(done)
        if done.served is None or not 200 <= done.code < 300:
            return
        if done.first_byte is not None:
            self._ttft(pool, flavor).observe(done.first_byte)
        given = self._tokens(done.served, "input", "text", done.input_tokens, done.input_bytes)
        made = self._tokens(done.served, "output", "events" if done.streamed else "text", done.output_tokens, done.output_bytes)
        price = self._prices.get(done.served)
        if price is not None:
            self._micro_usd(pool, flavor).inc((given * price.input_per_million + made * price.output_per_million) / _MILLION)

    def _tokens(self, served: tuple[str, str], direction: str, form: str, reported: int | None, size: int) -> int:
        """Tokens of one direction, counted; a report also teaches the ratio of bytes to tokens."""
        key = (served, f"{direction}/{form}")
        ratio = self._ratios.get(key, _EVENT_BYTES if form == "events" else float(BYTES_PER_TOKEN))
        if reported is None:
            tokens, source = round(size / ratio), "estimated"
        else:
            tokens, source = reported, "reported"
            if reported > 0 and size > 0:
                self._ratios[key] = ratio + _LEARN * (size / reported - ratio)
        self._counted(*served, direction, source).inc(tokens)
        return tokens

    def _judge(self, done: Finished) -> None:
        """What the request showed of remote endpoints: the one that refused our key, and the one that had the last attempt."""
        if done.refused_by is not None and done.refused_by in self._remotes.values():
            self._health.observe(*done.refused_by, FlavorReason.KEY_REFUSED)
        last = self._remotes.get(done.cluster)
        if last is None or last == done.refused_by:
            return
        if not done.connected:
            self._health.observe(*last, FlavorReason.UNREACHABLE)
        elif done.code == 429:
            self._health.observe(*last, FlavorReason.RATE_LIMITED)
        elif 200 <= done.code < 300:
            self._health.observe(*last, "")


def finished_of(entry: Any) -> Finished:
    """Read one HTTPAccessLogEntry."""
    common, flags = entry.common_properties, entry.common_properties.response_flags
    metadata = common.metadata.filter_metadata
    decided, request = _struct(metadata, _AUTHZ), _struct(metadata, "modelfleet.request")
    tags = common.custom_tags
    told = _tokens_told(common.metadata.typed_filter_metadata) or _tokens_passed(_struct(metadata, _STREAM_USAGE))
    return Finished(
        decision=_text(decided, "id"),
        policy=_text(decided, "policy") or _tag(tags, "policy"),
        rule=_text(decided, "rule") or _tag(tags, "rule"),
        served=_pool_flavor(_tag(tags, "served")),
        refused_by=_pool_flavor(_text(_struct(metadata, "modelfleet.upstream"), "key_refused")),
        cluster=common.upstream_cluster,
        code=entry.response.response_code.value,
        attempts=common.upstream_request_attempt_count,
        streamed="stream" in request and request["stream"].bool_value,
        connected=not (flags.upstream_connection_failure or flags.upstream_request_timeout or flags.dns_resolution_failure),
        input_bytes=entry.request.request_body_bytes,
        output_bytes=entry.response.response_body_bytes,
        input_tokens=told.input if told else None,
        output_tokens=told.output if told else None,
        first_byte=_seconds(common, "time_to_first_downstream_tx_byte"),
        duration=_seconds(common, "duration") or 0.0,
    )


def _struct(metadata: Any, namespace: str) -> Any:
    return metadata[namespace].fields if namespace in metadata else {}


def _text(fields: Any, key: str) -> str:
    return fields[key].string_value if key in fields else ""


def _tag(tags: Any, key: str) -> str:
    value: str = tags.get(key, "")
    return "" if value == "-" else value


def _tokens_told(typed: Any) -> TokenCounts | None:
    """What the server said of a whole answer; of a part of one, bytes are the better witness."""
    counts = token_counts(typed[NAMESPACE].value) if NAMESPACE in typed else None
    return counts if counts is not None and counts.complete and max(counts.input, counts.output) <= _MOST_TOKENS else None


def _tokens_passed(fields: Any) -> TokenCounts | None:
    """What a stream's own usage event said: it is there even when the client hung up right behind it."""
    output = _tokens_of(fields, "output")
    if output is None:
        return None
    return TokenCounts(_tokens_of(fields, "input") or 0, output, _tokens_of(fields, "cached") or 0, complete=True)


def _tokens_of(fields: Any, key: str) -> int | None:
    """A number of tokens that a request can have; what else a model server may say there is nothing said."""
    if key not in fields or not fields[key].HasField("number_value"):
        return None
    number = fields[key].number_value
    return int(number) if 0 <= number <= _MOST_TOKENS else None


def _pool_flavor(text: str) -> tuple[str, str] | None:
    pool, _, flavor = text.rpartition("/")
    return (pool, flavor) if pool and flavor else None


def _seconds(common: Any, field: str) -> float | None:
    if not common.HasField(field):
        return None
    value = getattr(common, field)
    return float(value.seconds + value.nanos / 1e9)
