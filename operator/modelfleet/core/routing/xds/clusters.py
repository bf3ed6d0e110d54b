"""Clusters and their endpoints: the pods of a pool with the sink behind them, and remote endpoints with their key and TLS."""

from __future__ import annotations

from collections.abc import Iterable

from modelfleet.core.routing.ir import Address, PodCluster, RemoteCluster, SecretRef
from modelfleet.core.routing.rewrite import rewrite

from .errors import error_body
from .settings import GatewaySettings
from .wire import HTTP, Json, proto, seconds, tcp

__all__ = ["assignment", "plain_cluster", "pod_cluster", "remote_cluster", "secret_name", "sink_behind"]


def pod_cluster(pods: PodCluster, settings: GatewaySettings) -> Json:
    """The pods of one pool."""
    lua = rewrite(settings.run_dir, model=pods.upstream_model, prefix="/v1", host=None, remote=None, refused="")
    return plain_cluster(pods.name, settings, pods.max_requests, [_rewriting(lua)])


def plain_cluster(name: str, settings: GatewaySettings, max_requests: int, filters: Iterable[Json] = ()) -> Json:
    """A cluster whose endpoints come over EDS.

    Errors of the pods' own making never eject one: with ordinary 5xx ejection the sink itself would be ejected at its first answer.
    """
    outliers = {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": "3s",
        "max_ejection_time": "15s",
        "max_ejection_percent": 100,
    }
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    return _cluster(name, settings, max_requests, filters) | {
        "type": "EDS",
        "eds_cluster_config": {"eds_config": source},
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "outlier_detection": outliers,
    }


def remote_cluster(remote: RemoteCluster, settings: GatewaySettings) -> Json:
    """One remote endpoint, found by name, with the sink behind it for a name that does not resolve."""
    refused = error_body(f"the endpoint {remote.pool}/{remote.flavor} refused the gateway's key", kind="server_error", code="key_refused")
    port = "" if remote.port == (443 if remote.tls else 80) else f":{remote.port}"
    served = f"{remote.pool}/{remote.flavor}"
    lua = rewrite(settings.run_dir, model=remote.upstream_model, prefix=remote.path_prefix, host=remote.host + port, remote=served, refused=refused)
    endpoint = {
        "endpoint": {"address": tcp(remote.host, remote.port), "hostname": remote.host},
        "metadata": _served(remote.pool, remote.flavor),
    }
    sink = {
        "endpoint": {"address": tcp("127.0.0.1", settings.sink_port)},
        "metadata": {"filter_metadata": {"envoy.transport_socket_match": {"sink": True}}},
    }
    cluster = _cluster(remote.name, settings, 4 * remote.concurrency, [_rewriting(lua), *_credential(remote.secret)]) | {
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "load_assignment": {
            "cluster_name": remote.name,
            "endpoints": [{"priority": 0, "lb_endpoints": [endpoint]}, {"priority": 1, "lb_endpoints": [sink]}],
            "policy": {"overprovisioning_factor": 100_000},
        },
    }
    return cluster | (_tls(remote.host, settings) if remote.tls else {})


def _rewriting(lua: str) -> Json:
    return {"name": "modelfleet.rewrite", "typed_config": proto(f"{HTTP}.lua.v3.Lua", default_source_code={"inline_string": lua})}


def _cluster(name: str, settings: GatewaySettings, max_requests: int, own: Iterable[Json] = ()) -> Json:
    filters = [
        *own,
        {"name": "envoy.filters.http.upstream_codec", "typed_config": proto(f"{HTTP}.upstream_codec.v3.UpstreamCodec")},
    ]
    options = proto("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http_protocol_options": {}}, http_filters=filters)
    limits = {"max_connections": max_requests, "max_pending_requests": max_requests, "max_requests": max_requests, "max_retries": max_requests}
    return proto(
        "envoy.config.cluster.v3.Cluster",
        name=name,
        connect_timeout=seconds(settings.connect_timeout),
        per_connection_buffer_limit_bytes=settings.max_body_bytes + 65536,
        circuit_breakers={"thresholds": [limits]},
        typed_extension_protocol_options={"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    )


def secret_name(ref: SecretRef) -> str:
    """The SDS resource of one key of one Secret."""
    return f"secret/{ref.namespace}/{ref.name}/{ref.key}"


def _credential(secret: SecretRef | None) -> list[Json]:
    if secret is None:
        return []
    sds = {"name": secret_name(secret), "sds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}}
    generic = proto("envoy.extensions.http.injected_credentials.generic.v3.Generic", credential=sds, header="authorization")
    typed = proto(f"{HTTP}.credential_injector.v3.CredentialInjector", overwrite=True, credential={"name": "key", "typed_config": generic})
    return [{"name": "modelfleet.key", "typed_config": typed}]


def _tls(host: str, settings: GatewaySettings) -> Json:
    names = [{"san_type": "DNS", "matcher": {"exact": host}}]
    context = {"trusted_ca": {"filename": settings.ca_file}, "match_typed_subject_alt_names": names}
    common = {"validation_context": context, "alpn_protocols": ["http/1.1"], "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"}}
    tls = proto("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", sni=host, common_tls_context=common)
    plain = proto("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")
    return {
        "transport_socket": {"name": "tls", "typed_config": tls},
        "transport_socket_matches": [{"name": "sink", "match": {"sink": True}, "transport_socket": {"name": "plain", "typed_config": plain}}],
    }


def _served(pool: str, flavor: str) -> Json:
    return {"filter_metadata": {"modelfleet": {"served": f"{pool}/{flavor}", "pool": pool, "flavor": flavor}}}


def assignment(pods: PodCluster, settings: GatewaySettings) -> Json:
    """The pods of one pool, and the sink."""
    return sink_behind(pods.name, [_pod(pods.pool, a) for a in pods.addresses], settings)


def sink_behind(cluster: str, endpoints: list[Json], settings: GatewaySettings) -> Json:
    """Endpoints at priority 0, the sink at 1. The factor keeps every request off the sink while one endpoint lives."""
    sink = {"endpoint": {"address": {"pipe": {"path": f"{settings.run_dir}/sink.sock"}}}}
    return proto(
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        cluster_name=cluster,
        endpoints=[{"priority": 0, "lb_endpoints": endpoints}, {"priority": 1, "lb_endpoints": [sink]}],
        policy={"overprovisioning_factor": 100_000},
    )


def _pod(pool: str, address: Address) -> Json:
    return {
        "endpoint": {"address": tcp(address.host, address.port)},
        "metadata": _served(pool, address.flavor),
        "load_balancing_weight": address.weight,
    }
