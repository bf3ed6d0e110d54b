"""Listeners: the clients' one, and the sinks that answer for a pool without a ready pod."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import direct, error_body, local_replies
from .filters import http_filters
from .settings import GatewaySettings
from .wire import HTTP, ROUTES, Json, grpc_service, header, proto, tcp

__all__ = ["gateway", "pipe", "sink"]


def gateway(settings: GatewaySettings) -> Json:
    """The listener clients talk to; its routes come over RDS."""
    manager = proto(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="gateway",
        server_name="modelfleet",
        rds={"route_config_name": ROUTES, "config_source": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}},
        use_remote_address=True,
        skip_xff_append=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        request_timeout="120s",
        request_headers_timeout="10s",
        stream_idle_timeout="0s",
        common_http_protocol_options={"idle_timeout": "600s", "headers_with_underscores_action": "REJECT_REQUEST"},
        early_header_mutation_extensions=[_early()],
        http_filters=http_filters(settings),
        local_reply_config={"mappers": local_replies()},
        access_log=[_access_log()],
    )
    return _listener("gateway", tcp(settings.address, settings.port), manager, settings.max_body_bytes)


def sink(name: str, address: Json, settings: GatewaySettings) -> Json:
    """What answers for a pool without a ready pod, or an endpoint whose name does not resolve.

    It is an ordinary 503: Envoy retries those, and not its own "no healthy upstream".
    """
    body = error_body("no replica of any candidate is ready; try again later", kind="server_error", code="no_ready_replica")
    answer = direct(503, body) | {"match": {"prefix": "/"}}
    answer["response_headers_to_add"].append(header("retry-after", "5"))
    manager = proto(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="sink",
        route_config={"name": "sink", "virtual_hosts": [{"name": "sink", "domains": ["*"], "routes": [answer]}]},
        http_filters=[{"name": "router", "typed_config": proto(f"{HTTP}.router.v3.Router", suppress_envoy_headers=True)}],
    )
    return _listener(name, address, manager, settings.max_body_bytes)


def _listener(name: str, address: Json, manager: Json, buffer_bytes: int) -> Json:
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return proto("envoy.config.listener.v3.Listener", name=name, address=address, filter_chains=[chain], per_connection_buffer_limit_bytes=buffer_bytes)


def pipe(settings: GatewaySettings, name: str) -> Json:
    """The address of a Unix socket of this gateway."""
    return {"pipe": {"path": f"{settings.run_dir}/{name}.sock", "mode": 0o660}}


def _early() -> Json:
    ours = [{"safe_regex": {"regex": regex}} for regex in _all_but("x-modelfleet-", ("grant", "session"))]
    reserved = [{"prefix": "x-envoy-", "ignore_case": True}, *ours]
    mutations = [{"remove_on_match": {"key_matcher": matcher}} for matcher in reserved]
    message = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {"name": "reserved", "typed_config": proto(message, mutations=mutations)}


def _all_but(prefix: str, allowed: Sequence[str]) -> list[str]:
    """Everything under a prefix but these names, which begin with different letters. RE2 has no look-ahead, so they are spelled out, one by one."""
    spelled = []
    for name in allowed:
        other = [f"{name[:i]}[^{name[i]}].*" for i in range(1, len(name))]
        spelled.append(f"{prefix}({'|'.join([*other, *(name[:i] for i in range(1, len(name))), name + '.+'])})")
    return [f"{prefix}([^{''.join(name[0] for name in allowed)}].*)?", *spelled]


def _access_log() -> Json:
    def from_metadata(tag: str, kind: str, key: str) -> Json:
        return {"tag": tag, "metadata": {"kind": {kind: {}}, "metadata_key": {"key": "modelfleet", "path": [{"key": key}]}}}

    common = {
        "log_name": "modelfleet",
        "grpc_service": grpc_service("ads"),
        "transport_api_version": "V3",
        "buffer_flush_interval": "0.2s",
        "buffer_size_bytes": 65_536,
        "custom_tags": [from_metadata(tag, kind, tag) for tag, kind in (("served", "host"), ("policy", "route"), ("entrypoint", "route"), ("rule", "route"))],
    }
    typed = proto("envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig", common_config=common)
    return {"name": "envoy.access_loggers.http_grpc", "typed_config": typed}
