"""The file Envoy starts from: who it is, where its router listens, and nothing that ever changes.

Decided here: sockets (all in one directory, no TCP for admin), limits against overload. Everything else comes over ADS; until
it has come, Envoy serves nothing rather than an empty table.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = ["bootstrap", "bootstrap_text"]

_TYPE = "type.googleapis.com/"


def bootstrap(node_id: str, run_dir: str = "/run/modelfleet", max_connections: int = 50_000) -> dict[str, Any]:
    """The bootstrap as JSON of the proto. ``node_id`` is the pod's name; ``run_dir`` holds every socket; ``max_connections`` of clients."""
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    # the default backs off to 30 s, which is how long a gateway would follow nothing after its router was restarted
    patience = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}
    service = {"envoy_grpc": {"cluster_name": "ads", "retry_policy": patience}, "timeout": "0s"}
    monitor = _TYPE + "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    return {
        "node": {"id": node_id, "cluster": "modelfleet"},
        "admin": {"address": {"pipe": {"path": f"{run_dir}/admin.sock", "mode": 0o660}}},
        "dynamic_resources": {
            "ads_config": {"api_type": "GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": True, "grpc_services": [service]},
            "cds_config": source,
            "lds_config": source,
        },
        "static_resources": {"clusters": [_local("ads", run_dir, 1.0), _local("authz", run_dir, 0.05)]},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {"@type": monitor, "max_active_downstream_connections": max_connections},
                }
            ]
        },
    }


def bootstrap_text(node_id: str, run_dir: str = "/run/modelfleet", max_connections: int = 50_000) -> str:
    """The same as text that is both JSON and YAML, as the chart mounts it."""
    return json.dumps(bootstrap(node_id, run_dir, max_connections), indent=2, sort_keys=True) + "\n"


def _local(name: str, run_dir: str, connect_timeout: float) -> dict[str, Any]:
    """A gRPC server of the router. Limits are far away: a request that finds no place here would go undecided."""
    limits = {"max_connections": 1024, "max_pending_requests": 65536, "max_requests": 65536}
    endpoint = {"endpoint": {"address": {"pipe": {"path": f"{run_dir}/{name}.sock"}}}}
    options = {
        "@type": _TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": {"interval": "15s", "timeout": "10s"}}},
    }
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": f"{connect_timeout:.3f}s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }
