"""Errors in the words OpenAI clients expect: those this package writes itself, and Envoy's own."""

from __future__ import annotations

import json
from typing import Final

from .wire import HTTP, LOST, REQUEST, Json, header, proto

__all__ = ["direct", "error_body", "local_replies"]

_GATEWAY_ERROR_FLAGS: Final = ["UH", "UF", "UO", "URX", "UC", "UR", "LR", "UT", "NC", "NR", "UPE", "UMSDR", "SI"]


def error_body(message: str, *, kind: str, code: str, param: str | None = None) -> str:
    """An error as OpenAI clients expect it."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def direct(status: int, body: str) -> Json:
    """A route's answer that no upstream and no decider is asked for."""
    return {
        "direct_response": {"status": status, "body": {"inline_string": body}},
        "response_headers_to_add": [header("content-type", "application/json")],
        "typed_per_filter_config": {"modelfleet.decide": proto(f"{HTTP}.ext_authz.v3.ExtAuthzPerRoute", disabled=True)},
    }


def local_replies() -> list[Json]:
    """Envoy's own errors in OpenAI's words. Answers of the decider and of our static routes are left as they are.

    ``unread``: Envoy refused before it had looked for a model, so the answer is none of ours.
    """

    def flags(*names: str) -> Json:
        return {"response_flag_filter": {"flags": list(names)}}

    def status(code: int) -> Json:
        return {"status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": code, "runtime_key": "modelfleet.never"}}}}

    def reply(when: Json, message: str, kind: str, code: str, as_status: int | None = None) -> Json:
        body = {"error": {"message": message, "type": kind, "param": "", "code": code}}
        return {"filter": when, "body_format_override": {"json_format": body}} | ({"status_code": as_status} if as_status else {})

    def both(*filters: Json) -> Json:
        return {"and_filter": {"filters": list(filters)}}

    never = {"string_match": {"exact": "\t"}}
    unread = {"metadata_filter": {"matcher": {"filter": REQUEST, "path": [{"key": "model"}], "value": never}, "match_if_key_not_found": True}}
    refused = {"header_filter": {"header": {"name": LOST, "string_match": {"exact": "true"}}}}
    strange = "the gateway takes no such request: look at its path, its scheme and its headers"
    lost = "the gateway cannot decide at the moment and this policy refuses rather than guesses; try again"
    return [
        {"filter": flags("UAEX")},
        reply(both(status(403), refused), lost, "server_error", "decider_lost", 503),
        *(reply(both(status(code), unread), strange, "invalid_request_error", "bad_request") for code in (400, 403)),
        reply(status(426), "speak HTTP/1.1 or HTTP/2 to this gateway", "invalid_request_error", "upgrade_required"),
        reply(status(413), "the request body is larger than this gateway accepts", "invalid_request_error", "request_too_large"),
        reply(status(408), "the request was not received in time", "invalid_request_error", "request_timeout"),
        reply(status(431), "the request headers are larger than this gateway accepts", "invalid_request_error", "headers_too_large"),
        reply(flags("UT"), "no candidate answered in time", "server_error", "upstream_timeout"),
        reply(flags("UO"), "every candidate is at its limit; try again later", "server_error", "overloaded"),
        reply(flags(*_GATEWAY_ERROR_FLAGS), "no candidate could serve the request: %RESPONSE_FLAGS%", "server_error", "upstream_unavailable"),
    ]
