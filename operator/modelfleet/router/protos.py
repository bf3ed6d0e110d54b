"""The xDS protos the router speaks, in one place: what is imported here is what ``json_format`` can parse.

Only this file and the servers beside it import ``envoy``; a message the Python protos lack travels as ``TypedStruct``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2 as als_config
from envoy.extensions.filters.http.credential_injector.v3 import credential_injector_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.http.json_to_metadata.v3 import json_to_metadata_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.http.upstream_codec.v3 import upstream_codec_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.http.injected_credentials.generic.v3 import generic_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.service.discovery.v3 import ads_pb2 as discovery_service, discovery_pb2 as discovery
from google.protobuf import any_pb2, json_format
from xds.type.v3 import typed_struct_pb2

__all__ = ["CDS", "EDS", "LDS", "RDS", "SDS", "add_ads", "discovery", "make_secret", "pack"]

_TYPE: Final = "type.googleapis.com/"
CDS: Final = _TYPE + cluster_pb2.Cluster.DESCRIPTOR.full_name
EDS: Final = _TYPE + endpoint_pb2.ClusterLoadAssignment.DESCRIPTOR.full_name
LDS: Final = _TYPE + listener_pb2.Listener.DESCRIPTOR.full_name
RDS: Final = _TYPE + route_pb2.RouteConfiguration.DESCRIPTOR.full_name
SDS: Final = _TYPE + secret_pb2.Secret.DESCRIPTOR.full_name

_REFRESH_CLUSTER_ON_RETRY: Final = b"\x70\x01"
"""``RetryPolicy.refresh_cluster_on_retry: true`` on the wire: newer than the Python protos, which carry it as an unknown field."""

EXTENSIONS: Final = (
    als_config, credential_injector_pb2, ext_authz_pb2, generic_pb2, header_mutation_pb2, http_connection_manager_pb2, http_protocol_options_pb2,
    json_to_metadata_pb2, lua_pb2, previous_hosts_pb2, raw_buffer_pb2, rbac_pb2, router_pb2, tls_pb2, typed_struct_pb2, upstream_codec_pb2,
)  # fmt: skip
"""Imported for their effect: a message must be known before JSON that names it can be parsed."""


def add_ads(stream: Any, server: Any) -> None:
    """Serve ADS from a gRPC server; only the state-of-the-world stream is spoken."""
    service = discovery_service.DESCRIPTOR.services_by_name["AggregatedDiscoveryService"].full_name
    handler = grpc.stream_stream_rpc_method_handler(
        stream, request_deserializer=discovery.DiscoveryRequest.FromString, response_serializer=discovery.DiscoveryResponse.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"StreamAggregatedResources": handler}),))


def pack(raw: Mapping[str, Any]) -> Any:
    """JSON of a resource (with its ``@type``) as an Any; raises json_format.ParseError where the JSON does not fit the proto."""
    if raw.get("@type") != RDS:
        return json_format.ParseDict(dict(raw), any_pb2.Any())
    hosts = raw["virtual_hosts"]
    bare = {k: v for k, v in raw.items() if k != "@type"} | {"virtual_hosts": [{k: v for k, v in host.items() if k != "routes"} for host in hosts]}
    table = json_format.ParseDict(bare, route_pb2.RouteConfiguration())
    for host, read in zip(table.virtual_hosts, hosts, strict=True):
        for route in read["routes"]:
            host.routes.add().MergeFromString(_route(json.dumps(route)))
    packed = any_pb2.Any()
    packed.Pack(table)
    return packed


@lru_cache(maxsize=8192)
def _route(text: str) -> bytes:
    """One route, serialised. Parsing takes half a millisecond, and of a table with a changed route all others are as they were."""
    refreshing: list[int] = []
    route = json_format.ParseDict(_without_refresh(json.loads(text), refreshing), route_components_pb2.Route())
    if refreshing:
        route.route.retry_policy.MergeFromString(_REFRESH_CLUSTER_ON_RETRY)
    return bytes(route.SerializeToString(deterministic=True))


def _without_refresh(value: Any, found: list[int]) -> Any:
    if isinstance(value, list):
        return [_without_refresh(v, found) for v in value]
    if not isinstance(value, Mapping):
        return value
    if value.get("refresh_cluster_on_retry") is True:
        found.append(1)
    return {k: _without_refresh(v, found) for k, v in value.items() if k != "refresh_cluster_on_retry"}


def make_secret(name: str, value: bytes) -> Any:
    """A generic SDS secret, packed."""
    secret = secret_pb2.Secret(name=name)
    secret.generic_secret.secret.inline_bytes = value
    packed = any_pb2.Any()
    packed.Pack(secret)
    return packed
