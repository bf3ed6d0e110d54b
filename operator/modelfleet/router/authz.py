"""Envoy's question "where to?" over a Unix socket: bytes in, ``core/routing/decide.py``, bytes out, and a memory of recent decisions.

Decided here: nothing about routes. This file reads the Check, times it, writes the answer by hand (protobuf objects cost a tenth more
CPU per decision) and remembers features and reasons of the last 10,000 requests, never their text. A Check that cannot be decided (no plan yet, a
route this plan does not hold, an error in here) fails on purpose: Envoy takes it for a lost decider, so that routes which must refuse do.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from time import perf_counter
from typing import Any

import grpc
import grpc.aio
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2
from envoy.type.v3 import http_status_pb2
from google.protobuf import struct_pb2
from google.rpc import status_pb2

from modelfleet.core.explain import compiled_sentence, explain_request
from modelfleet.core.grants import Grant
from modelfleet.core.routing.compiled import compiled_route, decision_header, facts_of, team_header
from modelfleet.core.routing.decide import Decision, RoutingTable, decide, refuse, routing_table
from modelfleet.core.routing.granted import Given
from modelfleet.core.routing.ir import RoutingPlan, TeamRoute
from modelfleet.core.routing.request import BadRequest, RequestFacts, read_request

from .grants import GrantReader

__all__ = ["Decider", "Remembered", "answer_bytes", "decision_json", "question"]

SPAN_HEADER = "x-modelfleet-model-span"
DECISION_HEADER = "x-modelfleet-decision"
_REMEMBERED = 10_000
_PERMISSION_DENIED = 7
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Features:
    """What of a request is remembered: sizes and flags, nothing it says."""

    input_tokens: int
    output_tokens: int
    messages: int
    tools: bool
    json_mode: bool
    vision: bool
    stream: bool
    body_cut: bool


@dataclass(frozen=True, slots=True)
class Remembered:
    """A decision of the recent past; ``features`` None: the body could not be read."""

    decision: Decision
    features: Features | None


class Decider:
    """Answers Checks from the present plan. ``on_decided`` hears the seconds each one took; ``grants`` tells what a request's grant is worth."""

    def __init__(self, on_decided: Callable[[float], None] = lambda _: None, grants: GrantReader | None = None) -> None:
        self._table: RoutingTable = {}
        self._teams: Mapping[str, TeamRoute] = {}
        self._on_decided = on_decided
        self._grants = grants or GrantReader()
        self._prefixes: dict[tuple[str, str, tuple[str, ...]], bytes] = {}
        self._recent: OrderedDict[str, Remembered] = OrderedDict()

    def use(self, plan: RoutingPlan) -> None:
        """Decide from ``plan`` from now on."""
        self._table = routing_table(plan)
        self._teams = {name: team for team in plan.teams for name in team.names}
        self._prefixes.clear()

    def recall(self, decision_id: str) -> Remembered | None:
        """A decision of the last 10,000, or None."""
        return self._recent.get(decision_id)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve ``envoy.service.auth.v3.Authorization`` on a gRPC server."""
        handler = grpc.unary_unary_rpc_method_handler(self._check, request_deserializer=external_auth_pb2.CheckRequest.FromString, response_serializer=None)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": handler}),))

    def ask(self, body: bytes, headers: Mapping[str, str], decision_id: str, lifted: str | None = None, policy: str | None = None) -> Remembered:
        """One decision, as for Envoy. Nothing is remembered."""
        return question(self._table, body, headers, decision_id, lifted=lifted, policy=policy, grants=self._grants)[0]

    def explain(self, body: bytes, headers: Mapping[str, str], policy: str | None = None) -> dict[str, Any]:
        """What would become of a request, and why. ``compiled``: what Envoy answers without asking; None where it asks."""
        asked = self.ask(body, headers, "explain", policy=policy)
        answer = decision_json(asked) | {"compiled": compiled_json(self._table, body, headers)}
        team = self._teams.get(asked.decision.entrypoint)
        return answer if team is None else answer | team_json(team, asked.decision.entrypoint)

    def check(self, request: Any) -> bytes | None:
        """The answer to one CheckRequest, serialised; None: there is nothing to say about this route."""
        began = perf_counter()
        attributes = request.attributes
        http = attributes.request.http
        headers = http.headers
        lifted = attributes.metadata_context.filter_metadata["modelfleet.request"].fields.get("model")
        remembered, facts = question(
            self._table,
            http.raw_body or http.body.encode(),
            headers,
            _decision_id(headers.get("x-request-id") or http.id),
            lifted=lifted.string_value if lifted is not None else None,
            policy=attributes.context_extensions.get("policy"),
            grants=self._grants,
        )
        self._remember(remembered)
        answer = self._answer(remembered.decision, facts)
        self._on_decided(perf_counter() - began)
        return answer

    async def _check(self, request: Any, context: Any) -> bytes:
        answer = self.check(request)
        if answer is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this route is not programmed here")
            raise AssertionError
        return answer

    def _remember(self, remembered: Remembered) -> None:
        self._recent[remembered.decision.id] = remembered
        if len(self._recent) > _REMEMBERED:
            self._recent.popitem(last=False)

    def _answer(self, decision: Decision, facts: RequestFacts | None) -> bytes | None:
        if decision.undecided:
            return None
        key = (decision.policy, decision.rule, decision.groups)
        prefix = self._prefixes.get(key)
        if prefix is None and decision.refusal is None:
            prefix = self._prefixes[key] = _metadata(decision)
        return answer_bytes(decision, facts.model_span if facts else (0, 0), prefix or b"")


def question(
    table: RoutingTable, body: bytes, headers: Mapping[str, str], decision_id: str, *, lifted: str | None, policy: str | None, grants: GrantReader
) -> tuple[Remembered, RequestFacts | None]:
    """Body and headers -> decision: the one path that Envoy's Checks and every explanation share."""
    cut = headers.get("x-envoy-auth-partial-body") == "true"
    grant = _grant(table, lifted, headers, grants)
    try:
        facts = read_request(body, headers, lifted, cut=cut, bounded=_is_for(grant, lifted))
        if lifted is None:
            grant = _grant(table, facts.model, headers, grants)
            facts = read_request(body, headers, cut=cut, bounded=True) if _is_for(grant, facts.model) else facts
    except BadRequest as error:
        return Remembered(refuse(decision_id, lifted or "", error), None), None
    features = Features(
        input_tokens=facts.input_tokens,
        output_tokens=facts.output_tokens,
        messages=facts.messages,
        tools=facts.tools,
        json_mode=facts.json_mode,
        vision=facts.vision,
        stream=facts.stream,
        body_cut=facts.body_cut,
    )
    return Remembered(decide(table, facts, decision_id, route_policy=policy or None, grant=grant), features), facts


def _grant(table: RoutingTable, model: str | None, headers: Mapping[str, str], grants: GrantReader) -> Given:
    """What a request for a target showed; elsewhere a grant means nothing and is not read."""
    entry = table.get(model or "")
    return grants(headers) if entry is not None and entry.policy.granted else None


def _is_for(grant: Given, model: str | None) -> bool:
    """Whether the cost of the call is worth telling: nobody without a grant makes the decider read a schema, and be late for others."""
    return isinstance(grant, Grant) and grant.target == model


def decision_json(remembered: Remembered) -> dict[str, Any]:
    """A decision for machines and people: fields, trail, sentences, and the features it was made from."""
    decision, refusal = remembered.decision, remembered.decision.refusal
    return {
        "id": decision.id,
        "model": decision.entrypoint,
        "policy": decision.policy,
        "generation": decision.generation,
        "rule": decision.rule or None,
        "why": str(decision.why),
        "chain": list(decision.chain),
        "groups": list(decision.groups),
        "header": decision.header,
        "refusal": None if refusal is None else {"status": refusal.status, "code": str(refusal.code), "message": refusal.message},
        "trail": [{key: value for key, value in asdict(step).items() if value not in ("", 0)} for step in decision.trail],
        "features": None if remembered.features is None else asdict(remembered.features),
        "explanation": explain_request(decision),
    }


def compiled_json(table: RoutingTable, body: bytes, headers: Mapping[str, str]) -> dict[str, Any] | None:
    """What a compiled route answers to this request: rule, chain, and the facts that its order was made from. None: the decider is asked."""
    try:
        entry = table.get(read_request(body, headers).model)
    except BadRequest:
        return None
    route = None if entry is None else compiled_route(entry, headers, body)
    if entry is None or route is None:
        return None
    facts = facts_of(entry, route)
    header = decision_header(entry.policy, route)
    return {"rule": route.rule or None, "chain": list(route.chain), "header": header, "facts": facts, "explanation": compiled_sentence(facts)}


def team_json(team: TeamRoute, name: str) -> dict[str, Any]:
    """A team's name is not decided upon: its runtime answers."""
    said = [f"model {name}: team {team.team}, generation {team.generation}", "answer: the team runtime, which calls models for each role under grants"]
    return {"team": team.team, "policy": "", "generation": team.generation, "why": "Team", "header": team_header(team), "trail": [], "explanation": said}


def _decision_id(given: str) -> str:
    """The request's id as Envoy or the client gave it, if it can stand in a header; else a hash of it."""
    return given if _SAFE_ID.fullmatch(given) else blake2b(given.encode(), digest_size=8).hexdigest()


# --- the answer, written by hand: field numbers of CheckResponse, OkHttpResponse, HeaderValueOption and Struct ---


def answer_bytes(decision: Decision, model_span: tuple[int, int], prefix: bytes) -> bytes:
    """A serialised CheckResponse. ``prefix`` holds what equal decisions share; messages and maps merge by concatenation."""
    if decision.refusal is not None:
        return _denied(decision)
    span = f"{model_span[0]},{model_span[1]}"
    strings = _string_entry("id", decision.id) + _string_entry("span", span)
    ok = _field(2, _header(SPAN_HEADER, span)) + _field(6, _header(DECISION_HEADER, decision.header))
    return prefix + _field(4, strings) + _field(3, ok)


def _metadata(decision: Decision) -> bytes:
    """The part that equal decisions share."""
    metadata = struct_pb2.Struct()
    metadata["policy"], metadata["rule"] = decision.policy, decision.rule
    metadata["priority_groups"] = [{"name": group} for group in decision.groups]
    return bytes(external_auth_pb2.CheckResponse(dynamic_metadata=metadata).SerializeToString(deterministic=True))


def _denied(decision: Decision) -> bytes:
    if decision.refusal is None:
        raise AssertionError
    headers = [
        base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=key, value=value), append_action="OVERWRITE_IF_EXISTS_OR_ADD")
        for key, value in (("content-type", "application/json"), (DECISION_HEADER, decision.header))
    ]
    metadata = struct_pb2.Struct()
    metadata["policy"], metadata["rule"], metadata["id"] = decision.policy, decision.rule, decision.id
    denied = external_auth_pb2.DeniedHttpResponse(
        status=http_status_pb2.HttpStatus(code=decision.refusal.status), headers=headers, body=decision.refusal.body().decode()
    )
    response = external_auth_pb2.CheckResponse(status=status_pb2.Status(code=_PERMISSION_DENIED), denied_response=denied, dynamic_metadata=metadata)
    return bytes(response.SerializeToString())


def _header(key: str, value: str) -> bytes:
    return _field(1, _field(1, key.encode()) + _field(2, value.encode())) + b"\x18\x02"


def _string_entry(key: str, value: str) -> bytes:
    return _field(1, _field(1, key.encode()) + _field(2, _field(3, value.encode())))


def _field(number: int, payload: bytes) -> bytes:
    size = len(payload)
    head = bytearray((number << 3 | 2,))
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return bytes(head) + payload
