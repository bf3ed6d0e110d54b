"""Words that every resource is written with: messages, addresses, durations, headers, and the names that files of this package share."""

from __future__ import annotations

from typing import Any, Final

__all__ = [
    "AUTHZ",
    "HTTP",
    "JSON_TYPE",
    "LOST",
    "REQUEST",
    "ROUTES",
    "STREAM_USAGE",
    "Json",
    "grpc_service",
    "header",
    "proto",
    "seconds",
    "tcp",
    "typed_struct",
]

Json = dict[str, Any]

TYPE: Final = "type.googleapis.com/"
HTTP: Final = "envoy.extensions.filters.http"
REQUEST: Final = "modelfleet.request"
STREAM_USAGE: Final = "modelfleet.usage"
"""Metadata: what was read from the body."""
AUTHZ: Final = "envoy.filters.http.ext_authz"
"""Metadata: what the decider said."""
JSON_TYPE: Final = "(?i)application/json.*"
LOST: Final = "x-envoy-auth-failure-mode-allowed"
"""The header that Envoy adds when the decider did not answer."""
ROUTES: Final = "gateway"


def proto(message: str, **fields: Any) -> Json:
    """A message as ``Any``: its fields beside its ``@type``."""
    return {"@type": TYPE + message, **fields}


def typed_struct(message: str, value: Json) -> Json:
    """A message that the Python protos lack, as ``Any``."""
    return {"@type": TYPE + "xds.type.v3.TypedStruct", "type_url": TYPE + message, "value": value}


def seconds(value: float) -> str:
    """A protobuf Duration."""
    return f"{value:.3f}s"


def grpc_service(cluster: str, timeout: float | None = None) -> Json:
    """A gRPC service behind a cluster of the bootstrap; ``timeout`` of one call in seconds."""
    return {"envoy_grpc": {"cluster_name": cluster}} | ({"timeout": seconds(timeout)} if timeout is not None else {})


def tcp(address: str, port: int) -> Json:
    """A TCP address."""
    return {"socket_address": {"address": address, "port_value": port}}


def header(name: str, value: str, action: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> Json:
    """A header to add; by default it replaces its like."""
    return {"header": {"key": name, "value": value}, "append_action": action}
