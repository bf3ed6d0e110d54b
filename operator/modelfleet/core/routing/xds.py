"""RoutingPlan -> what Envoy reads: listeners, routes, clusters and endpoints, as JSON of the xDS protos.

Decided here: the path of a request inside Envoy 1.40 (filters, retries, what is stripped, what an error looks like). Not here:
who may use which group (``compile.py``), which chain one request gets (``decide.py``), when a resource is sent (``router/ads.py``).
Messages that the Python protos lack travel as ``xds.type.v3.TypedStruct``. No secret is in here: keys are SDS references.

The contract with the decider (ext_authz over ``authz.sock``):

- it gets the body (``raw_body``; its head alone beyond ``decide_body_bytes``, then ``x-envoy-auth-partial-body`` is ``true``),
  ``metadata_context`` namespace ``modelfleet.request`` (``model``: string, ``stream``: bool), and the route's ``context_extensions`` ``policy``,
  ``entrypoint``, ``version``;
- an OK answer carries ``dynamic_metadata`` (stored under ``envoy.filters.http.ext_authz``): ``priority_groups``, a list of
  ``{"name": <group>}`` padded to maxAttempts by its last (never ``clusters``: those could name any cluster), the strings ``id``, ``policy``,
  ``rule``, and ``span`` (``"<start>,<end>"``, bytes of the quoted top-level model, end exclusive); one request header, always
  (``x-modelfleet-model-span``: without a header change Envoy keeps the static chain; it never leaves the gateway); and the response header
  ``x-modelfleet-decision`` with OVERWRITE_IF_EXISTS_OR_ADD, since the route has put its own there first;
  it may add ``x-envoy-upstream-rq-per-try-timeout-ms`` to give one request another first-byte limit;
- access logs go to ``ads.sock`` (log name ``modelfleet``): ``common_properties.metadata`` holds ``typed_filter_metadata`` ``envoy.ai.token_usage``
  (read by ``router/tokens.py``), ``filter_metadata`` ``envoy.filters.http.ext_authz`` (the above) and ``modelfleet.upstream`` (``key_refused``:
  ``<ns>/<pool>/<flavor>``); ``custom_tags`` hold ``served`` (``<ns>/<pool>/<flavor>``) and the route's ``policy`` and ``entrypoint``.

Envoy counts the decider's time from the start of the loop turn that also parsed the body: bodies of several megabytes may go undecided.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .compile import NOTHING
from .ir import Address, PodCluster, PolicyPlan, RemoteCluster, RoutingPlan, SecretRef
from .rewrite import rewrite

__all__ = ["GatewaySettings", "Resources", "error_body", "resources", "secret_name"]

Json = dict[str, Any]

_TYPE = "type.googleapis.com/"
_HTTP = "envoy.extensions.filters.http"
_REQUEST = "modelfleet.request"
_AUTHZ = "envoy.filters.http.ext_authz"
_JSON_TYPE = "(?i)application/json.*"
_LOST = "x-envoy-auth-failure-mode-allowed"
_ROUTES = "gateway"
_GATEWAY_ERROR_FLAGS = ["UH", "UF", "UO", "URX", "UC", "UR", "LR", "UT", "NC", "NR", "UPE", "UMSDR", "SI"]
_STRIPPED_UPSTREAM = (
    "accept-encoding", "api-key", "authorization", "cookie", "proxy-authorization", "x-api-key", "x-forwarded-for", "x-modelfleet-model-span",
    "x-modelfleet-session", _LOST, "x-envoy-auth-partial-body", "x-envoy-external-address", "x-envoy-internal",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What the installer chose. ``decide_timeout`` in seconds: how long one request waits for a decider that hangs.

    ``decide_body_bytes``: how much of a body the decider gets to see, cut and marked as such beyond. Whole bodies of 4 MB take longer than 50 ms to
    reach it, and then their size alone would switch it off.
    ``sink_port`` is on loopback alone: clusters that resolve names cannot have the sink's Unix socket among their endpoints.
    """

    run_dir: str = "/run/modelfleet"
    address: str = "0.0.0.0"
    port: int = 8080
    sink_port: int = 8079
    max_body_bytes: int = 8 * 1024 * 1024
    decide_body_bytes: int = 1024 * 1024
    decide_timeout: float = 0.05
    connect_timeout: float = 1.0
    ca_file: str = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class Resources:
    """Name -> resource, by xDS type; every resource carries its ``@type``. ``secrets``: those that clusters refer to."""

    listeners: Mapping[str, Json]
    routes: Mapping[str, Json]
    clusters: Mapping[str, Json]
    endpoints: Mapping[str, Json]
    secrets: Mapping[str, SecretRef] = field(default_factory=dict)


def resources(plan: RoutingPlan, settings: GatewaySettings) -> Resources:
    """Everything one Envoy needs for a plan. Equal plans give equal bytes."""
    nothing = PodCluster(name=NOTHING[1], pool="", upstream_model="", addresses=())
    pods = (nothing, *plan.pod_clusters)
    clusters = {p.name: _pod_cluster(p, settings) for p in pods} | {r.name: _remote_cluster(r, settings) for r in plan.remote_clusters}
    return Resources(
        listeners={
            "gateway": _gateway(settings),
            "sink": _sink("sink", _pipe(settings, "sink"), settings),
            "sink-tcp": _sink("sink-tcp", _tcp("127.0.0.1", settings.sink_port), settings),
        },
        routes={_ROUTES: _route_table(plan)},
        clusters=dict(sorted(clusters.items())),
        endpoints={p.name: _assignment(p, settings) for p in sorted(pods, key=lambda p: p.name)},
        secrets={secret_name(r.secret): r.secret for r in plan.remote_clusters if r.secret is not None},
    )


def secret_name(ref: SecretRef) -> str:
    """The SDS resource of one key of one Secret."""
    return f"secret/{ref.namespace}/{ref.name}/{ref.key}"


def error_body(message: str, *, kind: str, code: str, param: str | None = None) -> str:
    """An error as OpenAI clients expect it."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})


def _any(message: str, **fields: Any) -> Json:
    return {"@type": _TYPE + message, **fields}


def _struct(message: str, value: Json) -> Json:
    return {"@type": _TYPE + "xds.type.v3.TypedStruct", "type_url": _TYPE + message, "value": value}


def _seconds(value: float) -> str:
    return f"{value:.3f}s"


def _grpc(cluster: str, timeout: float | None = None) -> Json:
    return {"envoy_grpc": {"cluster_name": cluster}} | ({"timeout": _seconds(timeout)} if timeout is not None else {})


# --- listeners ---


def _gateway(settings: GatewaySettings) -> Json:
    manager = _any(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="gateway",
        server_name="modelfleet",
        rds={"route_config_name": _ROUTES, "config_source": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}},
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
        http_filters=_http_filters(settings),
        local_reply_config={"mappers": _local_replies()},
        access_log=[_access_log()],
    )
    return _listener("gateway", _tcp(settings.address, settings.port), manager, settings.max_body_bytes)


def _tcp(address: str, port: int) -> Json:
    return {"socket_address": {"address": address, "port_value": port}}


def _sink(name: str, address: Json, settings: GatewaySettings) -> Json:
    """What answers for a pool without a ready pod, or an endpoint whose name does not resolve.

    It is an ordinary 503: Envoy retries those, and not its own "no healthy upstream".
    """
    body = error_body("no replica of any candidate is ready; try again later", kind="server_error", code="no_ready_replica")
    answer = _direct(503, body) | {"match": {"prefix": "/"}}
    answer["response_headers_to_add"].append(_header("retry-after", "5"))
    manager = _any(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="sink",
        route_config={"name": "sink", "virtual_hosts": [{"name": "sink", "domains": ["*"], "routes": [answer]}]},
        http_filters=[{"name": "router", "typed_config": _any(f"{_HTTP}.router.v3.Router", suppress_envoy_headers=True)}],
    )
    return _listener(name, address, manager, settings.max_body_bytes)


def _listener(name: str, address: Json, manager: Json, buffer_bytes: int) -> Json:
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return _any("envoy.config.listener.v3.Listener", name=name, address=address, filter_chains=[chain], per_connection_buffer_limit_bytes=buffer_bytes)


def _pipe(settings: GatewaySettings, name: str) -> Json:
    return {"pipe": {"path": f"{settings.run_dir}/{name}.sock", "mode": 0o660}}


def _early() -> Json:
    reserved = [{"prefix": "x-envoy-", "ignore_case": True}, {"safe_regex": {"regex": _all_but("x-modelfleet-", "session")}}]
    mutations = [{"remove_on_match": {"key_matcher": matcher}} for matcher in reserved]
    message = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {"name": "reserved", "typed_config": _any(message, mutations=mutations)}


def _all_but(prefix: str, allowed: str) -> str:
    """RE2 has no look-ahead: everything under a prefix but one name, spelled out."""
    other = [f"{allowed[:i]}[^{c}].*" for i, c in enumerate(allowed)]
    shorter = [allowed[:i] for i in range(1, len(allowed))]
    return f"{prefix}({'|'.join([*other, *shorter, allowed + '.+'])})?"


def _http_filters(settings: GatewaySettings) -> list[Json]:
    return [
        {"name": "modelfleet.read", "typed_config": _read_body()},
        {"name": "modelfleet.decide", "typed_config": _decide(settings)},
        {"name": "modelfleet.refuse", "typed_config": _any(f"{_HTTP}.rbac.v3.RBAC")},
        {"name": "modelfleet.usage", "typed_config": _usage()},
        {"name": "envoy.filters.http.router", "typed_config": _any(f"{_HTTP}.router.v3.Router", suppress_envoy_headers=True)},
    ]


def _read_body() -> Json:
    """Lifts what routes and the rewrite ask for. The content types are named: without them ``application/json; charset=utf-8`` is not read."""

    def rule(path: Iterable[str], key: str, **otherwise: Json) -> Json:
        return {"selectors": [{"key": p} for p in path], "on_present": {"metadata_namespace": _REQUEST, "key": key}} | otherwise

    def value(text: str) -> Json:
        return {"metadata_namespace": _REQUEST, "key": "model", "value": text}

    rules = [
        rule(["model"], "model", on_missing=value("_missing"), on_error=value("_malformed")),
        rule(["stream"], "stream"),
        rule(["stream_options", "include_usage"], "usage"),
    ]
    regex = {"regex": _JSON_TYPE}
    return _any(
        f"{_HTTP}.json_to_metadata.v3.JsonToMetadata",
        request_rules={"rules": rules, "allow_empty_content_type": True, "allow_content_types_regex": regex},
    )


def _decide(settings: GatewaySettings) -> Json:
    return _any(
        f"{_HTTP}.ext_authz.v3.ExtAuthz",
        grpc_service=_grpc("authz", settings.decide_timeout),
        transport_api_version="V3",
        failure_mode_allow=True,
        failure_mode_allow_header_add=True,
        clear_route_cache=True,
        with_request_body={"max_request_bytes": min(settings.decide_body_bytes, settings.max_body_bytes), "allow_partial_message": True, "pack_as_bytes": True},
        metadata_context_namespaces=[_REQUEST],
        disallowed_headers={"patterns": [{"exact": name} for name in ("api-key", "authorization", "cookie", "proxy-authorization", "x-api-key")]},
        stat_prefix="decide",
    )


def _usage() -> Json:
    token_usage = {"include_unconfigured_routes": True, "default_llm_protocol": "OPENAI_CHAT_COMPLETIONS"}
    return _struct(f"{_HTTP}.ai_protocol_manager.v3.AiProtocolManager", {"response_handling": {"token_usage": token_usage}})


def _local_replies() -> list[Json]:
    """Envoy's own errors in OpenAI's words. Answers of the decider and of our static routes are left as they are."""

    def flags(*names: str) -> Json:
        return {"response_flag_filter": {"flags": list(names)}}

    def status(code: int) -> Json:
        return {"status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": code, "runtime_key": "modelfleet.never"}}}}

    def reply(when: Json, message: str, kind: str, code: str, as_status: int | None = None) -> Json:
        body = {"error": {"message": message, "type": kind, "param": "", "code": code}}
        return {"filter": when, "body_format_override": {"json_format": body}} | ({"status_code": as_status} if as_status else {})

    lost = "the gateway cannot decide at the moment and this policy refuses rather than guesses; try again"
    return [
        {"filter": flags("UAEX")},
        reply(status(403), lost, "server_error", "decider_lost", 503),
        reply(status(413), "the request body is larger than this gateway accepts", "invalid_request_error", "request_too_large"),
        reply(status(408), "the request was not received in time", "invalid_request_error", "request_timeout"),
        reply(status(431), "the request headers are larger than this gateway accepts", "invalid_request_error", "headers_too_large"),
        reply(flags("UT"), "no candidate answered in time", "server_error", "upstream_timeout"),
        reply(flags("UO"), "every candidate is at its limit; try again later", "server_error", "overloaded"),
        reply(flags(*_GATEWAY_ERROR_FLAGS), "no candidate could serve the request: %RESPONSE_FLAGS%", "server_error", "upstream_unavailable"),
    ]


def _access_log() -> Json:
    def from_metadata(tag: str, kind: str, key: str) -> Json:
        return {"tag": tag, "metadata": {"kind": {kind: {}}, "metadata_key": {"key": "modelfleet", "path": [{"key": key}]}}}

    common = {
        "log_name": "modelfleet",
        "grpc_service": _grpc("ads"),
        "transport_api_version": "V3",
        "buffer_flush_interval": "0.2s",
        "custom_tags": [from_metadata(tag, kind, tag) for tag, kind in (("served", "host"), ("policy", "route"), ("entrypoint", "route"))],
    }
    typed = _any("envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig", common_config=common)
    return {"name": "envoy.access_loggers.http_grpc", "typed_config": typed}


# --- routes ---


def _route_table(plan: RoutingPlan) -> Json:
    routes = [_models(plan), *(r for p in plan.policies for r in _policy_routes(p)), *_catch_all(plan)]
    host = {
        "name": "gateway",
        "domains": ["*"],
        "routes": routes,
        "request_headers_to_remove": list(_STRIPPED_UPSTREAM),
        "response_headers_to_remove": ["x-modelfleet-key-refused", "x-envoy-upstream-service-time"],
    }
    return _any("envoy.config.route.v3.RouteConfiguration", name=_ROUTES, virtual_hosts=[host], max_direct_response_body_size_bytes=1_048_576)


def _policy_routes(policy: PolicyPlan) -> list[Json]:
    return [_route(policy, entrypoint.name) for entrypoint in policy.entrypoints]


def _route(policy: PolicyPlan, entrypoint: str) -> Json:
    context = {"policy": policy.key, "entrypoint": entrypoint, "version": policy.version}
    filters = {"modelfleet.decide": _any(f"{_HTTP}.ext_authz.v3.ExtAuthzPerRoute", check_settings={"context_extensions": context})}
    if policy.refuse_when_decider_lost:
        filters["modelfleet.refuse"] = _refuse()
    return {
        "name": f"{policy.key}/{entrypoint}",
        "match": _match(entrypoint),
        "metadata": {"filter_metadata": {"modelfleet": {"policy": policy.key, "entrypoint": entrypoint}}},
        "route": {
            "inline_cluster_specifier_plugin": _chain(policy),
            "timeout": _seconds(policy.total_timeout),
            "idle_timeout": _seconds(policy.total_timeout),
            "retry_policy": _retries(policy),
        },
        "typed_per_filter_config": filters,
        "response_headers_to_add": [
            _header("x-modelfleet-served", "%UPSTREAM_METADATA(modelfleet:served)%"),
            _header("x-modelfleet-attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"),
            _header("x-modelfleet-decision", _undecided(policy), "ADD_IF_ABSENT"),
        ],
    }


def _undecided(policy: PolicyPlan) -> str:
    """The decision header of a request nobody decided."""
    return f"policy={policy.key}/{policy.generation};chain={','.join(policy.static_chain)};why=DeciderLost"


def _match(model: str) -> Json:
    return {
        "prefix": "/v1/",
        "dynamic_metadata": [{"filter": _REQUEST, "path": [{"key": "model"}], "value": {"string_match": {"exact": model}}}],
    }


def _chain(policy: PolicyPlan) -> Json:
    groups = [{"name": group, "clusters": [{"cluster_name": cluster, "weight": 1}]} for group, cluster in policy.groups]
    message = "envoy.extensions.router.cluster_specifiers.priority_group.v3.PriorityGroupClusterSpecifier"
    value = {"priority_groups": groups, "override_metadata_namespace": _AUTHZ}
    return {"extension": {"name": "envoy.router.cluster_specifier_plugin.priority_group", "typed_config": _struct(message, value)}}


def _retries(policy: PolicyPlan) -> Json:
    """Retries are Envoy's and end with the first response byte. A refused key is always worth the next candidate: it is ours, not the client's."""
    triggers = set(policy.triggers)
    on = ["retriable-headers"]
    on += ["connect-failure"] if "Connect" in triggers else []
    on += ["reset"] if triggers & {"ResetBeforeByte", "FirstByteTimeout"} else []
    codes = [code for code, trigger in ((429, "Status429"), (503, "Status503")) if trigger in triggers]
    on += ["retriable-status-codes"] if codes else []
    timeout = {"per_try_timeout": _seconds(policy.first_byte_timeout)} if "FirstByteTimeout" in triggers else {}
    return timeout | {
        "retry_on": ",".join(on),
        "retriable_status_codes": codes,
        "retriable_headers": [{"name": "x-modelfleet-key-refused", "present_match": True}],
        "num_retries": policy.max_attempts - 1,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.050s"},
        "refresh_cluster_on_retry": True,
        "retry_host_predicate": [{"name": "tried", "typed_config": _any("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")}],
        "host_selection_retry_max_attempts": 4,
    }


def _refuse() -> Json:
    lost = {"header": {"name": _LOST, "string_match": {"exact": "true"}}}
    policy = {"permissions": [{"any": True}], "principals": [lost]}
    return _any(f"{_HTTP}.rbac.v3.RBACPerRoute", rbac={"rules": {"action": "DENY", "policies": {"decider-lost": policy}}})


def _models(plan: RoutingPlan) -> Json:
    names = sorted({e.name for p in plan.policies for e in p.entrypoints})
    body = {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "modelfleet"} for name in names]}
    get = [{"name": ":method", "string_match": {"exact": "GET"}}]
    return _direct(200, json.dumps(body)) | {"name": "models", "match": {"path": "/v1/models", "headers": get}}


def _catch_all(plan: RoutingPlan) -> list[Json]:
    names = ", ".join(sorted({e.name for p in plan.policies for e in p.entrypoints})) or "none"
    malformed = error_body("the body is not JSON", kind="invalid_request_error", code="malformed_body")
    missing = error_body("the body names no model", kind="invalid_request_error", code="model_required", param="model")
    unread = error_body("send the body as application/json", kind="invalid_request_error", code="unsupported_content_type")
    unknown = error_body(f"no such model; this gateway serves: {names}"[:3500], kind="invalid_request_error", code="model_not_found", param="model")
    elsewhere = error_body("no such path; the API is under /v1/", kind="invalid_request_error", code="not_found")
    other_type = {"name": "content-type", "string_match": {"safe_regex": {"regex": _JSON_TYPE}}, "invert_match": True}
    present = {"filter": _REQUEST, "path": [{"key": "model"}], "value": {"present_match": True}}
    return [
        _direct(415, unread) | {"name": "unread", "match": _match("_malformed") | {"headers": [other_type]}},
        _direct(400, malformed) | {"name": "malformed", "match": _match("_malformed")},
        _direct(400, missing) | {"name": "missing", "match": _match("_missing")},
        _direct(404, unknown) | {"name": "unknown", "match": {"prefix": "/v1/", "dynamic_metadata": [present]}},
        _direct(404, elsewhere) | {"name": "elsewhere", "match": {"prefix": "/"}},
    ]


def _direct(status: int, body: str) -> Json:
    return {
        "direct_response": {"status": status, "body": {"inline_string": body}},
        "response_headers_to_add": [_header("content-type", "application/json")],
        "typed_per_filter_config": {"modelfleet.decide": _any(f"{_HTTP}.ext_authz.v3.ExtAuthzPerRoute", disabled=True)},
    }


def _header(name: str, value: str, action: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> Json:
    return {"header": {"key": name, "value": value}, "append_action": action}


# --- clusters ---


def _pod_cluster(pods: PodCluster, settings: GatewaySettings) -> Json:
    """Errors of the pods' own making never eject one: with ordinary 5xx ejection the sink itself would be ejected at its first answer."""
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
    lua = rewrite(settings.run_dir, model=pods.upstream_model, prefix="/v1", host=None, remote=None, refused="")
    return _cluster(pods.name, settings, lua, pods.max_requests) | {
        "type": "EDS",
        "eds_cluster_config": {"eds_config": source},
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "outlier_detection": outliers,
    }


def _remote_cluster(remote: RemoteCluster, settings: GatewaySettings) -> Json:
    refused = error_body(f"the endpoint {remote.pool}/{remote.flavor} refused the gateway's key", kind="server_error", code="key_refused")
    port = "" if remote.port == (443 if remote.tls else 80) else f":{remote.port}"
    served = f"{remote.pool}/{remote.flavor}"
    lua = rewrite(settings.run_dir, model=remote.upstream_model, prefix=remote.path_prefix, host=remote.host + port, remote=served, refused=refused)
    endpoint = {
        "endpoint": {"address": _tcp(remote.host, remote.port), "hostname": remote.host},
        "metadata": _served(remote.pool, remote.flavor),
    }
    sink = {
        "endpoint": {"address": _tcp("127.0.0.1", settings.sink_port)},
        "metadata": {"filter_metadata": {"envoy.transport_socket_match": {"sink": True}}},
    }
    cluster = _cluster(remote.name, settings, lua, 4 * remote.concurrency, _credential(remote.secret)) | {
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


def _cluster(name: str, settings: GatewaySettings, lua: str, max_requests: int, extra: Iterable[Json] = ()) -> Json:
    filters = [
        {"name": "modelfleet.rewrite", "typed_config": _any(f"{_HTTP}.lua.v3.Lua", default_source_code={"inline_string": lua})},
        *extra,
        {"name": "envoy.filters.http.upstream_codec", "typed_config": _any(f"{_HTTP}.upstream_codec.v3.UpstreamCodec")},
    ]
    options = _any("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http_protocol_options": {}}, http_filters=filters)
    limits = {"max_connections": max_requests, "max_pending_requests": max_requests, "max_requests": max_requests, "max_retries": max_requests}
    return _any(
        "envoy.config.cluster.v3.Cluster",
        name=name,
        connect_timeout=_seconds(settings.connect_timeout),
        per_connection_buffer_limit_bytes=settings.max_body_bytes + 65536,
        circuit_breakers={"thresholds": [limits]},
        typed_extension_protocol_options={"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    )


def _credential(secret: SecretRef | None) -> list[Json]:
    if secret is None:
        return []
    sds = {"name": secret_name(secret), "sds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}}
    generic = _any("envoy.extensions.http.injected_credentials.generic.v3.Generic", credential=sds, header="authorization")
    typed = _any(f"{_HTTP}.credential_injector.v3.CredentialInjector", overwrite=True, credential={"name": "key", "typed_config": generic})
    return [{"name": "modelfleet.key", "typed_config": typed}]


def _tls(host: str, settings: GatewaySettings) -> Json:
    names = [{"san_type": "DNS", "matcher": {"exact": host}}]
    context = {"trusted_ca": {"filename": settings.ca_file}, "match_typed_subject_alt_names": names}
    common = {"validation_context": context, "alpn_protocols": ["http/1.1"], "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"}}
    tls = _any("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", sni=host, common_tls_context=common)
    plain = _any("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")
    return {
        "transport_socket": {"name": "tls", "typed_config": tls},
        "transport_socket_matches": [{"name": "sink", "match": {"sink": True}, "transport_socket": {"name": "plain", "typed_config": plain}}],
    }


# --- endpoints ---


def _served(pool: str, flavor: str) -> Json:
    return {"filter_metadata": {"modelfleet": {"served": f"{pool}/{flavor}", "pool": pool, "flavor": flavor}}}


def _assignment(pods: PodCluster, settings: GatewaySettings) -> Json:
    """Pods at priority 0, the sink at 1. The factor keeps every request off the sink while one pod lives."""
    sink = {"endpoint": {"address": {"pipe": {"path": f"{settings.run_dir}/sink.sock"}}}}
    return _any(
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        cluster_name=pods.name,
        endpoints=[
            {"priority": 0, "lb_endpoints": [_pod(pods.pool, a) for a in pods.addresses]},
            {"priority": 1, "lb_endpoints": [sink]},
        ],
        policy={"overprovisioning_factor": 100_000},
    )


def _pod(pool: str, address: Address) -> Json:
    return {
        "endpoint": {"address": _tcp(address.host, address.port)},
        "metadata": _served(pool, address.flavor),
        "load_balancing_weight": address.weight,
    }
