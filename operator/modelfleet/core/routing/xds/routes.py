"""The route table: one entrypoint after the other, then the teams, then what is said to a request that fits none.

A route that needs no decider has a chain of its own and tells the guard what to watch for; where the guard finds nothing, the decider is not asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from modelfleet.core.grants import GRANT_HEADER
from modelfleet.core.routing.compiled import decision_header
from modelfleet.core.routing.guard import GUARD, watch
from modelfleet.core.routing.ir import EntrypointRoute, PolicyPlan, RoutingPlan

from .errors import direct, error_body
from .match import model_match
from .teams import team_routes
from .wire import AUTHZ, HTTP, JSON_TYPE, LOST, REQUEST, ROUTES, Json, header, proto, seconds, typed_struct

__all__ = ["route_table"]

_STRIPPED_UPSTREAM: Final = (
    "accept-encoding", "api-key", "authorization", "cookie", "proxy-authorization", "x-api-key", "x-forwarded-for", "x-modelfleet-model-span",
    "x-modelfleet-session", GRANT_HEADER, LOST, "x-envoy-auth-partial-body", "x-envoy-external-address", "x-envoy-internal",
)  # fmt: skip


def route_table(plan: RoutingPlan) -> Json:
    """Every route of one gateway, in the order they are tried."""
    routes = [_models(plan), _nothing_read(), *(r for p in plan.policies for r in _policy_routes(p)), *team_routes(plan.teams), *_catch_all(plan)]
    host = {
        "name": "gateway",
        "domains": ["*"],
        "routes": routes,
        "request_headers_to_remove": list(_STRIPPED_UPSTREAM),
        "response_headers_to_remove": ["x-modelfleet-key-refused", "x-envoy-upstream-service-time"],
    }
    return proto("envoy.config.route.v3.RouteConfiguration", name=ROUTES, virtual_hosts=[host], max_direct_response_body_size_bytes=1_048_576)


def _policy_routes(policy: PolicyPlan) -> list[Json]:
    """Two of each route: a stream has a limit on its first byte; of a whole answer the first byte is the last, so the total limit is the only one."""
    return [
        _route(policy, entrypoint.name, route, number, stream=stream)
        for entrypoint in policy.entrypoints
        for number, route in enumerate(entrypoint.routes)
        for stream in (True, False)
    ]


def _route(policy: PolicyPlan, entrypoint: str, route: EntrypointRoute, number: int, *, stream: bool) -> Json:
    context = {"policy": policy.key, "entrypoint": entrypoint, "version": policy.version}
    filters = {"modelfleet.decide": proto(f"{HTTP}.ext_authz.v3.ExtAuthzPerRoute", check_settings={"context_extensions": context})}
    metadata: Json = {"modelfleet": {"policy": policy.key, "entrypoint": entrypoint}}
    if policy.refuse_when_decider_lost:
        filters["modelfleet.refuse"] = _refuse()
    if route.needs_decider:
        filters[GUARD] = proto(f"{HTTP}.lua.v3.LuaPerRoute", disabled=True)
    else:
        metadata = {"modelfleet": metadata["modelfleet"] | ({"rule": route.rule} if route.rule else {}), GUARD: {"watch": watch(route.watchwords)}}
    return {
        "name": f"{policy.key}/{entrypoint}" + (f"/{number}" if number else "") + ("/stream" if stream else ""),
        "match": model_match(entrypoint, stream=stream, headers=route.headers),
        "metadata": {"filter_metadata": metadata},
        "route": {
            "inline_cluster_specifier_plugin": _chain(policy.groups if route.needs_decider else route.groups),
            "timeout": seconds(policy.total_timeout),
            "idle_timeout": seconds(policy.total_timeout),
            "retry_policy": _retries(policy, stream=stream),
        },
        "typed_per_filter_config": filters,
        "response_headers_to_add": [
            header("x-modelfleet-served", "%UPSTREAM_METADATA(modelfleet:served)%"),
            header("x-modelfleet-attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
            header("x-modelfleet-decision", decision_header(policy, route), "ADD_IF_ABSENT"),
        ],
    }


def _chain(named: Sequence[tuple[str, str]]) -> Json:
    groups = [{"name": group, "clusters": [{"cluster_name": cluster, "weight": 1}]} for group, cluster in named]
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
    body = {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "modelfleet"} for name in _names(plan)]}
    get = [{"name": ":method", "string_match": {"exact": "GET"}}]
    return direct(200, json.dumps(body)) | {"name": "models", "match": {"path": "/v1/models", "headers": get}}


def _nothing_read() -> Json:
    """Before the body is read every request passes here once, so that it is not compared with every name of the fleet; what names none ends here.

    ``model`` is set of every body that is read, to ``_missing`` where it has none.
    """
    unread = {"filter": REQUEST, "path": [{"key": "model"}], "value": {"present_match": True}, "invert": True}
    return _elsewhere() | {"name": "nothing-read", "match": {"prefix": "/", "dynamic_metadata": [unread]}}


def _elsewhere() -> Json:
    return direct(404, error_body("no such path; the API is under /v1/", kind="invalid_request_error", code="not_found"))


def _names(plan: RoutingPlan) -> list[str]:
    """What clients may ask for. The targets of teams are not for them."""
    return sorted({*(e.name for p in plan.policies if not p.granted for e in p.entrypoints), *(name for team in plan.teams for name in team.names)})


def _catch_all(plan: RoutingPlan) -> list[Json]:
    names = ", ".join(_names(plan)) or "none"
    malformed = error_body("the body is not JSON", kind="invalid_request_error", code="malformed_body")
    missing = error_body("the body names no model", kind="invalid_request_error", code="model_required", param="model")
    unread = error_body("send the body as application/json", kind="invalid_request_error", code="unsupported_content_type")
    unknown = error_body(f"no such model; this gateway serves: {names}"[:3500], kind="invalid_request_error", code="model_not_found", param="model")
    other_type = {"name": "content-type", "string_match": {"safe_regex": {"regex": JSON_TYPE}}, "invert_match": True}
    present = {"filter": REQUEST, "path": [{"key": "model"}], "value": {"present_match": True}}
    return [
        direct(415, unread) | {"name": "unread", "match": model_match("_malformed") | {"headers": [other_type]}},
        direct(400, malformed) | {"name": "malformed", "match": model_match("_malformed")},
        direct(400, missing) | {"name": "missing", "match": model_match("_missing")},
        direct(404, unknown) | {"name": "unknown", "match": {"prefix": "/v1/", "dynamic_metadata": [present]}},
        _elsewhere() | {"name": "elsewhere", "match": {"prefix": "/"}},
    ]
