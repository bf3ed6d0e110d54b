"""Two pods' stand-in: one Envoy with fixed answers on two loopback addresses, each answer saying which of the two it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .processes import ENVOY, Started, start

_TYPE = "type.googleapis.com/envoy."
_HTTP = _TYPE + "extensions.filters.http"
BACKEND = "x-bench-backend"
"""The answer's header with the address that served it."""


def start_upstream(folder: Path, addresses: tuple[str, ...], port: int) -> Started:
    """Start it; answers 200 to whatever is asked once the listeners are up."""
    config = folder / "upstream.json"
    config.write_text(json.dumps(bootstrap(addresses, port)))
    return start(folder, "upstream", ENVOY, "-c", config, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning")


def answer() -> bytes:
    """A small chat completion that reports its tokens."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "The answer is forty-two. " * 8}, "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 240, "completion_tokens": 48, "total_tokens": 288, "prompt_tokens_details": {"cached_tokens": 0}}
    body = {"id": "chatcmpl-bench", "object": "chat.completion", "created": 1, "model": "bench-model", "choices": [choice], "usage": usage}
    return json.dumps(body).encode()


def bootstrap(addresses: tuple[str, ...], port: int) -> dict[str, Any]:
    """Envoy's whole configuration: a listener for each address."""
    return {"static_resources": {"listeners": [_listener(address, port) for address in addresses]}}


def _listener(address: str, port: int) -> dict[str, Any]:
    told = [{"header": {"key": "content-type", "value": "application/json"}}, {"header": {"key": BACKEND, "value": address}}]
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": answer().decode()}},
        "response_headers_to_add": [h | {"append_action": "OVERWRITE_IF_EXISTS_OR_ADD"} for h in told],
    }
    manager = {
        "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        # the whole question is read before the answer, else Envoy would close the connection
        "http_filters": [
            {"name": "buffer", "typed_config": {"@type": f"{_HTTP}.buffer.v3.Buffer", "max_request_bytes": 8 * 1024 * 1024}},
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_HTTP}.router.v3.Router"}},
        ],
    }
    return {
        "name": address,
        "address": {"socket_address": {"address": address, "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
