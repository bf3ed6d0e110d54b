"""Routes that need no decider, on the real Envoy: who answers, when the decider is asked after all, and what its loss changes (nothing)."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator

import pytest
from tests.router.test_gateway import a_gateway
from tests.support.apiserver import ApiServer
from tests.support.envoy import Answer, Bench, Upstream, a_bench, a_policy, a_pool, completion, decision, stream

from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.decide import decide, routing_table
from modelfleet.core.routing.guard import may_need_decider
from modelfleet.core.routing.ir import Address, RoutingWorld
from modelfleet.core.routing.request import read_request
from modelfleet.router.explain import explain_lines, explain_with

CANARY = {"name": "canary", "match": {"headers": [{"name": "x-canary", "value": "1"}]}, "candidates": ["large"]}
INSIDE = {"name": "long", "match": {"headers": [{"name": "x-app", "value": "reader"}], "inputTokens": {"min": 10}}, "candidates": ["large"]}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = await a_bench()
    yield made
    await made.close()


@pytest.fixture
async def upstreams() -> AsyncIterator[dict[str, Upstream]]:
    made = {name: await Upstream(lambda r: stream() if r.json.get("stream") else completion()).start() for name in ("small", "large")}
    yield made
    for server in made.values():
        await server.stop()


def a_world(upstreams: dict[str, Upstream], *ready: str, **policy) -> RoutingWorld:
    return RoutingWorld(
        pools=(a_pool("small"), a_pool("large")),
        policies=(a_policy("p", "small", "large", decided=False, **policy),),
        addresses={f"shop/{n}": (Address("127.0.0.1", upstreams[n].port, "gpu"),) for n in ready or ("small", "large")},
    )


async def _first(_request) -> object:
    return decision(["large"])


def why(answer: Answer) -> str:
    return answer.headers["x-modelfleet-decision"].rpartition("why=")[2]


async def test_a_plain_request_is_answered_without_the_decider_by_the_rule_that_its_headers_choose(bench: Bench, upstreams) -> None:
    await bench.serve(a_world(upstreams, rules=[CANARY, INSIDE]))
    decider = await bench.decide(_first)
    for headers, served, told in (
        ({}, "small", "rule=-;chain=small,large;why=Compiled"),
        ({"x-canary": "1"}, "large", "rule=canary;chain=large,small;why=Compiled"),
        ({"x-canary": "2"}, "small", "rule=-;chain=small,large;why=Compiled"),
    ):
        for streamed in ({}, {"stream": True}):
            answer = await bench.ask({"model": "auto", "messages": [{"role": "user", "content": "hi"}], **streamed}, headers=headers)
            assert (answer.status, answer.headers["x-modelfleet-served"]) == (200, f"shop/{served}/gpu")
            assert answer.headers["x-modelfleet-decision"] == f"policy=shop/p/1;{told}"
            sent = upstreams[served].requests[-1].json
            assert sent["model"] == f"{served}-model"
            assert sent.get("stream_options") == ({"include_usage": True} if streamed else None)
    assert not decider.asked
    answer = await bench.ask({"model": "auto", "messages": []}, headers={"x-app": "reader"})
    assert (answer.headers["x-modelfleet-served"], why(answer), len(decider.asked)) == ("shop/large/gpu", "Test", 1)
    entries = await bench.logged(7)
    assert [dict(e.common_properties.custom_tags) for e in entries[::2]] == [
        {"served": "shop/small/gpu", "policy": "shop/p", "entrypoint": "auto"},
        {"served": "shop/large/gpu", "policy": "shop/p", "entrypoint": "auto", "rule": "canary"},
        {"served": "shop/small/gpu", "policy": "shop/p", "entrypoint": "auto"},
        {"served": "shop/large/gpu", "policy": "shop/p", "entrypoint": "auto"},
    ]


async def test_the_decider_is_asked_where_the_body_may_hold_what_matters_as_the_guard_says(bench: Bench, upstreams) -> None:
    limits = {"maxContext": 100, "tools": False, "json": False}
    candidates = [{"name": "small", "poolRef": {"name": "small"}, "capabilities": limits}, {"name": "large", "poolRef": {"name": "large"}}]
    plan = await bench.serve(a_world(upstreams, candidates=candidates))
    route = plan.policies[0].entrypoints[0].routes[0]
    decider = await bench.decide(_first)
    text = '{"model":"auto","messages":[{"role":"user","content":"%s"}]%s}'
    bodies = [
        (text % ("hi", ""), False),
        (text % ('say \\"model\\" and \\"tools\\" of image', ""), False),
        ('{ "messages": [], "model"  :\n"auto" , "stream": false}', False),
        (text % ("hi", ',"max_tokens":60'), False),
        (text % ("hi", ',"max_tokens":99'), True),
        (text % ("hi", ',"max_completion_tokens": 1e1'), True),
        (text % ("hi", ',"max_tokens":null'), True),
        (text % ("hi", f',"max_tokens":{"9" * 18}'), True),
        (text % ("x" * 400, ""), True),
        (text % ("hi", ',"tools":[]'), True),
        (text % ("hi", ',"functions":[]'), True),
        (text % ("hi", ',"response_format":{"type":"json_object"}'), True),
        (text % ("hi", ',"t\\u006fols":[{}]'), True),
        (text % ("1 < 2 \\u003c 3", ""), False),
        (text % ("hi", ',"metadata":{"model":"auto"}'), True),
        ('{"mod\\u0065l":"auto","messages":[]}', True),
        ('{"model":"a\\u0075to","messages":[]}', True),
        ('{"model":"auto","messages":[{"role":"user","content":[{"type":"image_url"}]}]}', True),
        ('{"model":"auto","messages":[{"role":"user","content":[{"type":"text","text":"an image"}]}]}', False),
        ('{"model":"auto","messages":[{"role":"user","content":[{"type":"input_\\/image"}]}]}', True),
    ]
    for body, asks in bodies:
        asked = len(decider.asked)
        answer = await bench.ask(body.encode())
        assert answer.status == 200, (body, answer)
        assert (body, len(decider.asked) - asked, why(answer)) == (body, int(asks), "Test" if asks else "Compiled")
        assert may_need_decider(route.watchwords, "auto", body.encode()) is asks, body
        if not asks:
            assert upstreams["small"].requests[-1].json == json.loads(body) | {"model": "small-model"}


async def test_a_key_given_twice_gets_the_deciders_answer(bench: Bench, upstreams) -> None:
    await bench.serve(a_world(upstreams))
    decider = await bench.decide(_first)
    for body in ('{"model":"auto","model":"auto"}', '{"model":"other","model":"auto"}', '{"model":"auto","mod\\u0065l":"other"}'):
        asked, answer = len(decider.asked), await bench.ask(body.encode())
        assert answer.status == 404 or len(decider.asked) == asked + 1, body


async def test_without_a_decider_compiled_routes_never_notice_and_others_serve_their_static_chain(bench: Bench, upstreams) -> None:
    await bench.serve(a_world(upstreams, rules=[CANARY, INSIDE]))
    decider = await bench.decide(_first)
    answers: list[Answer] = []

    async def load() -> None:
        while len(answers) < 120:
            answers.append(await bench.ask({"model": "auto", "messages": []}, headers={"x-canary": str(len(answers) % 2)}))

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(load())
        while len(answers) < 40:
            await asyncio.sleep(0.005)
        await decider.stop()
        bench.decider = None
    assert {(a.status, why(a), a.headers["x-modelfleet-attempts"]) for a in answers} == {(200, "Compiled", "1")}
    lost = await bench.ask({"model": "auto", "messages": []}, headers={"x-app": "reader"})
    assert (lost.status, why(lost)) == (200, "DeciderLost")
    odd = await bench.ask({"model": "auto", "messages": [], "metadata": {"model": 1}}, headers={"x-canary": "1"})
    assert (odd.status, why(odd), odd.headers["x-modelfleet-served"]) == (200, "Compiled", "shop/large/gpu")


async def test_retries_walk_the_compiled_chain_and_a_fact_that_changes_changes_it(bench: Bench, upstreams) -> None:
    await bench.serve(a_world(upstreams, "large"))
    answer = await bench.chat("auto")
    assert (answer.headers["x-modelfleet-served"], answer.headers["x-modelfleet-attempts"], why(answer)) == ("shop/large/gpu", "2", "Compiled")
    await bench.serve(a_world(upstreams))
    for _ in range(4500):
        answer = await bench.chat("auto")
        if answer.headers["x-modelfleet-attempts"] == "1":
            break
        await asyncio.sleep(0.02)
    assert (answer.headers["x-modelfleet-served"], answer.headers["x-modelfleet-attempts"]) == ("shop/small/gpu", "1")


async def test_envoy_and_decide_agree_on_random_requests(bench: Bench, upstreams) -> None:
    rules = [CANARY, {"name": "both", "match": {"headers": [{"name": "x-app", "value": "shop"}, {"name": "x-tier", "value": "gold"}]}, "candidates": ["large"]},
             {"name": "app", "match": {"headers": [{"name": "x-app", "value": "shop"}]}, "candidates": ["small"]}]  # fmt: skip
    plan = await bench.serve(a_world(upstreams, rules=rules))
    table, dice = routing_table(plan), random.Random(3)
    for _ in range(150):
        headers = {
            name: dice.choice(values) for name, values in (("x-canary", "01"), ("x-app", ("shop", "web")), ("x-tier", ("gold", "tin"))) if dice.random() < 0.6
        }
        body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "w " * dice.randrange(50)}]}).encode()
        answer = await bench.ask(body, headers=headers)
        told = decide(table, read_request(body, headers), "x")
        assert answer.headers["x-modelfleet-decision"] == f"policy=shop/p/1;rule={told.rule or '-'};chain={','.join(told.chain)};why=Compiled"
        assert answer.headers["x-modelfleet-served"] == f"shop/{told.chain[0]}/gpu"


def test_explain_says_that_nobody_is_asked_and_from_which_facts() -> None:
    policy = a_policy("p", "small", "large", decided=False, rules=[CANARY])
    plan = compile_routes(RoutingWorld((a_pool("small"), a_pool("large")), (policy,), {"shop/small": (Address("10.0.0.1", 8000, "gpu"),)}))
    told = explain_with(plan, "shop/p", b'{"model":"auto","messages":[]}', {"X-Canary": "1"})
    facts = ["large: pool shop/large has no ready pod, so large", "small: pool shop/small has 1 ready pod, so small"]
    assert told["compiled"]["facts"] == facts
    assert told["compiled"]["header"] == "policy=shop/p/1;rule=canary;chain=large,small;why=Compiled"
    assert explain_lines(told)[-1] == f"Envoy answers by itself, without a decision, by the order compiled from these facts: {'; '.join(facts)}"
    assert explain_with(plan, "shop/p", b'{"model":"auto","messages":[],"metadata":{"model":1}}', {})["compiled"] is None


async def test_a_router_killed_under_load_is_not_noticed_on_a_compiled_route(apiserver_with_crds: ApiServer) -> None:
    async with a_gateway(apiserver_with_crds) as gateway:
        spec = {
            "entrypoints": [{"name": f"{gateway.namespace}-plain"}],
            "candidates": [{"name": "small", "poolRef": {"name": "small"}}],
            "default": {"chain": ["small"], "onDeciderLoss": "Refuse"},
        }
        meta = {"name": "plain", "namespace": gateway.namespace}
        gateway.server.apply(json.dumps({"apiVersion": "modelfleet.dev/v1alpha1", "kind": "RoutingPolicy", "metadata": meta, "spec": spec}))
        model = f"{gateway.namespace}-plain"
        for _ in range(1800):
            if (await gateway.chat(model=model)).status == 200:
                break
            await asyncio.sleep(0.05)
        answers: list[Answer] = []

        async def load() -> None:
            while len(answers) < 200:
                answers.append(await gateway.chat(model=model, stream=len(answers) % 3 == 0))

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(load())
            while len(answers) < 50:
                await asyncio.sleep(0.005)
            gateway.end_router(signal.SIGKILL)
        assert {(a.status, why(a), a.complete, a.headers["x-modelfleet-served"]) for a in answers} == {
            (200, "Compiled", True, f"{gateway.namespace}/small/cpu")
        }
        assert (await gateway.chat(model=model, metadata={"model": 1})).status == 503, "what must be decided is refused, as the policy says"
        gateway.start_router()
        await gateway.answers("RuleMatched")
        assert why(await gateway.chat(model=model)) == "Compiled"
