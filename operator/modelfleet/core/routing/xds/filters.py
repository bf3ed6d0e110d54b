"""The filters every request passes, in order: read the body, see whether it holds anything to decide, ask, refuse without an answer, count tokens, route."""

from __future__ import annotations

from collections.abc import Iterable

from modelfleet.core.routing.guard import GUARD, GUARD_SOURCE
from modelfleet.core.routing.request import HIDDEN_HEADERS

from .settings import GatewaySettings
from .wire import HTTP, JSON_TYPE, REQUEST, STREAM_USAGE, Json, grpc_service, proto, typed_struct

__all__ = ["http_filters"]


def http_filters(settings: GatewaySettings) -> list[Json]:
    """Every HTTP filter of the clients' listener, the router last."""
    return [
        {"name": "modelfleet.read", "typed_config": _read_body()},
        {"name": GUARD, "typed_config": proto(f"{HTTP}.lua.v3.Lua", default_source_code={"inline_string": GUARD_SOURCE})},
        {"name": "modelfleet.decide", "typed_config": _decide(settings)},
        {"name": "modelfleet.refuse", "typed_config": proto(f"{HTTP}.rbac.v3.RBAC")},
        {"name": "modelfleet.usage", "typed_config": _usage()},
        {"name": "modelfleet.stream-usage", "typed_config": _stream_usage()},
        {"name": "envoy.filters.http.router", "typed_config": proto(f"{HTTP}.router.v3.Router", suppress_envoy_headers=True)},
    ]


def _read_body() -> Json:
    """Lifts what routes and the rewrite ask for. The content types are named: without them ``application/json; charset=utf-8`` is not read."""

    def rule(path: Iterable[str], key: str, **otherwise: Json) -> Json:
        return {"selectors": [{"key": p} for p in path], "on_present": {"metadata_namespace": REQUEST, "key": key}} | otherwise

    def value(text: str) -> Json:
        return {"metadata_namespace": REQUEST, "key": "model", "value": text}

    rules = [
        rule(["model"], "model", on_missing=value("_missing"), on_error=value("_malformed")),
        rule(["stream"], "stream"),
        rule(["stream_options", "include_usage"], "usage"),
    ]
    regex = {"regex": JSON_TYPE}
    return proto(
        f"{HTTP}.json_to_metadata.v3.JsonToMetadata",
        request_rules={"rules": rules, "allow_empty_content_type": True, "allow_content_types_regex": regex},
    )


def _decide(settings: GatewaySettings) -> Json:
    return proto(
        f"{HTTP}.ext_authz.v3.ExtAuthz",
        grpc_service=grpc_service("authz", settings.decide_timeout),
        transport_api_version="V3",
        failure_mode_allow=True,
        failure_mode_allow_header_add=True,
        clear_route_cache=True,
        with_request_body={"max_request_bytes": min(settings.decide_body_bytes, settings.max_body_bytes), "allow_partial_message": True, "pack_as_bytes": True},
        metadata_context_namespaces=[REQUEST],
        disallowed_headers={"patterns": [{"exact": name} for name in sorted(HIDDEN_HEADERS)]},
        filter_enabled_metadata={"filter": GUARD, "path": [{"key": "skip"}], "value": {"bool_match": True}, "invert": True},
        stat_prefix="decide",
    )


def _usage() -> Json:
    token_usage = {"include_unconfigured_routes": True, "default_llm_protocol": "OPENAI_CHAT_COMPLETIONS"}
    return typed_struct(f"{HTTP}.ai_protocol_manager.v3.AiProtocolManager", {"response_handling": {"token_usage": token_usage}})


def _stream_usage() -> Json:
    """Notes a stream's tokens when they pass.

    The manager above tells them at the end of the answer, and many clients, the official one among them, hang up at ``[DONE]``, just before it.
    """

    def rule(path: Iterable[str], key: str) -> Json:
        return {"rule": {"selectors": [{"key": p} for p in ("usage", *path)], "on_present": {"metadata_namespace": STREAM_USAGE, "key": key, "type": "NUMBER"}}}

    rules = [rule(["prompt_tokens"], "input"), rule(["completion_tokens"], "output"), rule(["prompt_tokens_details", "cached_tokens"], "cached")]
    parser = {"name": "envoy.content_parsers.json", "typed_config": proto("envoy.extensions.content_parsers.json.v3.JsonContentParser", rules=rules)}
    return typed_struct(f"{HTTP}.sse_to_metadata.v3.SseToMetadata", {"response_rules": {"content_parser": parser, "max_event_size": 65536}})
