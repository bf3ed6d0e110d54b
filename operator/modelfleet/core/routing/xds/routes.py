"""The route table: one entrypoint after the other, then what is said to a request that fits none."""

from __future__ import annotations

import json
from typing import Final

from modelfleet.core.routing.ir import PolicyPlan, RoutingPlan

from .errors import direct, error_body
from .wire import AUTHZ, HTTP, JSON_TYPE, LOST, REQUEST, ROUTES, Json, header, proto, seconds, typed_struct

__all__ = ["route_table"]

_STRIPPED_UPSTREAM: Final = (
    "accept-encoding", "api-key", "authorization", "cookie", "proxy-authorization", "x-api-key", "x-forwarded-for", "x-modelfleet-model-span",
    "x-modelfleet-session", LOST, "x-envoy-auth-partial-body", "x-envoy-external-address", "x-envoy-internal",
)  # fmt: skip


def route_table(plan: RoutingPlan) -> Json:
    """Every route of one gateway, in the order they are tried."""
    routes = [_models(plan), *(r for p in plan.policies for r in _policy_routes(p)), *_catch_all(plan)]
    host = {
        "name": "gateway",
        "domains": ["*"],
        "routes": routes,
        "request_headers_to_remove": list(_STRIPPED_UPSTREAM),
        "response_headers_to_remove": ["x-modelfleet-key-refused", "x-envoy-upstream-service-time"],
    }
    return proto("envoy.config.route.v3.RouteConfiguration", name=ROUTES, virtual_hosts=[host], max_direct_response_body_size_bytes=1_048_576)


def _policy_routes(policy: PolicyPlan) -> list[Json]:
    """Two routes for each name: a stream has a limit on its first byte; of a whole answer the first byte is the last, so the total limit is the only one."""
    return [_route(policy, entrypoint.name, stream=stream) for entrypoint in policy.entrypoints for stream in (True, False)]


def _route(policy: PolicyPlan, entrypoint: str, *, stream: bool) -> Json:
    context = {"policy": policy.key, "entrypoint": entrypoint, "version": policy.version}
    filters = {"modelfleet.decide": proto(f"{HTTP}.ext_authz.v3.ExtAuthzPerRoute", check_settings={"context_extensions": context})}
    if policy.refuse_when_decider_lost:
        filters["modelfleet.refuse"] = _refuse()
    return {
        "name": f"{policy.key}/{entrypoint}" + ("/stream" if stream else ""),
        "match": _match(entrypoint, stream=stream),
        "metadata": {"filter_metadata": {"modelfleet": {"policy": policy.key, "entrypoint": entrypoint}}},
        "route": {
            "inline_cluster_specifier_plugin": _chain(policy),
            "timeout": seconds(policy.total_timeout),
            "idle_timeout": seconds(policy.total_timeout),
            "retry_policy": _retries(policy, stream=stream),
        },
        "typed_per_filter_config": filters,
        "response_headers_to_add": [
            header("x-modelfleet-served", "%UPSTREAM_METADATA(modelfleet:served)%"),
            header("x-modelfleet-attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
            header("x-modelfleet-decision", _undecided(policy), "ADD_IF_ABSENT"),
        ],
    }


def _undecided(policy: PolicyPlan) -> str:
    """The decision header of a request nobody decided."""
    return f"policy={policy.key}/{policy.generation};chain={','.join(policy.static_chain)};why=DeciderLost"


def _match(model: str, *, stream: bool = False) -> Json:
    asked: list[tuple[str, Json]] = [("model", {"string_match": {"exact": model}})]
    asked += [("stream", {"bool_match": True})] if stream else []
    return {"prefix": "/v1/", "dynamic_metadata": [{"filter": REQUEST, "path": [{"key": key}], "value": value} for key, value in asked]}


def _chain(policy: PolicyPlan) -> Json:
    groups = [{"name": group, "clusters": [{"cluster_name": cluster, "weight": 1}]} for group, cluster in policy.groups]
    message = "envoy.extensions.router.cluster_specifiers.priority_group.v3.PriorityGroupClusterSpecifier"
    value = {"priority_groups": groups, "override_metadata_namespace": AUTHZ}
    return {"extension": {"name": "envoy.router.cluster_specifier_plugin.priority_group", "typed_config": typed_struct(message, value)}}


def _retries(policy: PolicyPlan, *, stream: bool) -> Json:
    """Retries are Envoy's and end with the first response byte. A refused key is always worth the next candidate: it is ours, not the client's."""
    triggers = set(policy.triggers)
    on = ["retriable-headers"]
    on += ["connect-failure"] if "Connect" in triggers else []
    on += ["reset"] if triggers & {"ResetBeforeByte", "FirstByteTimeout"} else []
    codes = [code for code, trigger in ((429, "Status429"), (503, "Status503")) if trigger in triggers]
    on += ["retriable-status-codes"] if codes else []
    timeout = {"per_try_timeout": seconds(policy.first_byte_timeout)} if stream and "FirstByteTimeout" in triggers else {}
    return timeout | {
        "retry_on": ",".join(on),
        "retriable_status_codes": codes,
        "retriable_headers": [{"name": "x-modelfleet-key-refused", "present_match": True}],
        "num_retries": policy.max_attempts - 1,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.050s"},
        "refresh_cluster_on_retry": True,
        "retry_host_predicate": [{"name": "tried", "typed_config": proto("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")}],
        "host_selection_retry_max_attempts": 4,
    }


def _refuse() -> Json:
    lost = {"header": {"name": LOST, "string_match": {"exact": "true"}}}
    policy = {"permissions": [{"any": True}], "principals": [lost]}
    return proto(f"{HTTP}.rbac.v3.RBACPerRoute", rbac={"rules": {"action": "DENY", "policies": {"decider-lost": policy}}})


def _models(plan: RoutingPlan) -> Json:
    names = sorted({e.name for p in plan.policies for e in p.entrypoints})
    body = {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "modelfleet"} for name in names]}
    get = [{"name": ":method", "string_match": {"exact": "GET"}}]
    return direct(200, json.dumps(body)) | {"name": "models", "match": {"path": "/v1/models", "headers": get}}


def _catch_all(plan: RoutingPlan) -> list[Json]:
    names = ", ".join(sorted({e.name for p in plan.policies for e in p.entrypoints})) or "none"
    malformed = error_body("the body is not JSON", kind="invalid_request_error", code="malformed_body")
    missing = error_body("the body names no model", kind="invalid_request_error", code="model_required", param="model")
    unread = error_body("send the body as application/json", kind="invalid_request_error", code="unsupported_content_type")
    unknown = error_body(f"no such model; this gateway serves: {names}"[:3500], kind="invalid_request_error", code="model_not_found", param="model")
    elsewhere = error_body("no such path; the API is under /v1/", kind="invalid_request_error", code="not_found")
    other_type = {"name": "content-type", "string_match": {"safe_regex": {"regex": JSON_TYPE}}, "invert_match": True}
    present = {"filter": REQUEST, "path": [{"key": "model"}], "value": {"present_match": True}}
    return [
        direct(415, unread) | {"name": "unread", "match": _match("_malformed") | {"headers": [other_type]}},
        direct(400, malformed) | {"name": "malformed", "match": _match("_malformed")},
        direct(400, missing) | {"name": "missing", "match": _match("_missing")},
        direct(404, unknown) | {"name": "unknown", "match": {"prefix": "/v1/", "dynamic_metadata": [present]}},
        direct(404, elsewhere) | {"name": "elsewhere", "match": {"prefix": "/"}},
    ]
