"""The official OpenAI client against door, engine and journal, over real sockets; the models behind are a scripted server with a price book of its own."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from prometheus_client import CollectorRegistry
from tests.support.scripted_model import KEY, Script, ScriptedModel
from tests.support.serve import serving

from modelfleet.api.v1alpha1 import AgentTeam, ModelPool
from modelfleet.core.teams.compile import compile_teams
from modelfleet.core.teams.estimate import estimate
from modelfleet.core.teams.ir import TeamsPlan
from modelfleet.core.teams.strategies import strategy_of
from modelfleet.core.teams.strategies.protocol import InputSize
from modelfleet.teamserver.engine import Engine
from modelfleet.teamserver.front_openai import Front
from modelfleet.teamserver.http import http_app
from modelfleet.teamserver.joins import Joins
from modelfleet.teamserver.journal.sqlite import SqliteJournal
from modelfleet.teamserver.metrics import TeamMetrics

PRICES = {"boss": ("3", "15"), "reader": ("0.02", "0.04"), "small": ("0.02", "0.04")}
BUDGET = {"perRun": {"cost": "0.50", "wallClock": "60s"}}
QUESTION = {"role": "user", "content": "Which clause is it?"}
DOCUMENT = {"role": "user", "content": " ".join(f"Clause {i} says that party {i % 7} pays within {i} days." for i in range(60))}


def a_pool(name: str) -> ModelPool:
    given, made = PRICES[name]
    endpoint = {"url": "https://x.example/v1", "model": name, "price": {"inputPerMillion": given, "outputPerMillion": made}}
    return ModelPool.model_validate(
        {
            "metadata": {"name": name, "namespace": "legal"},
            "spec": {"model": {"name": name, "source": "hf://x/y"}, "engine": {"type": "VLLM"}, "flavors": [{"name": "far", "endpoint": endpoint}]},
        }
    )


def a_role(name: str, tokens: int, **more: Any) -> dict[str, Any]:
    retries = {"max": 1, "backoff": "1ms"}
    return {"name": name, "modelFrom": {"modelPoolRef": {"name": name}}, "sampling": {"maxTokens": tokens, "temperature": "0.5"}, "retries": retries} | more


def a_team(name: str, strategy: dict[str, Any], **more: Any) -> AgentTeam:
    spec = {"roles": [a_role("boss", 40), a_role("reader", 20)], "strategy": strategy, "budget": BUDGET} | more
    return AgentTeam.model_validate({"metadata": {"name": name, "namespace": "legal", "generation": 1}, "spec": spec})


CHAIN = {"chain": {"steps": [{"name": "draft", "role": "reader"}, {"name": "final", "role": "boss", "input": "${input}\n${steps.draft.output}"}]}}
MAP_REDUCE = {"mapReduce": {"split": {"by": "Chunk", "tokens": 100}, "map": {"role": "reader"}, "reduce": {"role": "boss"}}}


def the_plan() -> TeamsPlan:
    poor = a_team("poor", CHAIN, budget={"perRun": {"cost": "0.000001", "wallClock": "60s"}})
    teams = [a_team("chain", CHAIN), a_team("readers", MAP_REDUCE), a_team("asleep", CHAIN, suspend=True), poor]
    return compile_teams(teams, [a_pool("boss"), a_pool("reader")], [])


class Bench:
    """Everything of the runtime but the watches, and the client."""

    def __init__(self, model: ScriptedModel, journal: SqliteJournal, url: str, registry: CollectorRegistry) -> None:
        self.model, self.journal, self.url, self.registry = model, journal, url, registry
        self.client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    async def ask(self, team: str = "legal/chain", *, client: openai.AsyncOpenAI | None = None, **more: Any) -> Any:
        return await (client or self.client).chat.completions.create(**{"model": team, "messages": [DOCUMENT, QUESTION]} | more)

    async def stream(self, team: str = "legal/chain", **more: Any) -> list[Any]:
        options = {"include_usage": True}
        return [chunk async for chunk in await self.ask(team, stream=True, stream_options=options, **more)]

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """Samples of one metric, by the values of their labels in alphabetical order of the labels."""
        samples = (sample for family in self.registry.collect() for sample in family.samples if sample.name == name)
        return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in samples}


Open = Callable[..., Awaitable[Bench]]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def open_(*, grace: float = 0.0, **script: Any) -> Bench:
            served = {f"pool:legal/{name}": ((f"legal/{name}", "far"),) for name in PRICES}
            book = {(f"legal/{name}", "far"): (int(float(given) * 1e6), int(float(made) * 1e6)) for name, (given, made) in PRICES.items()}
            model = await stack.enter_async_context(ScriptedModel(Script(**script), served, book))
            journal = await SqliteJournal.open(tmp_path / "journal")
            stack.push_async_callback(journal.close)
            metrics, plan = TeamMetrics(), the_plan()
            engine = Engine(journal, model.url, lambda: [KEY], metrics=metrics)
            stack.push_async_callback(engine.drain, 0.0)
            front = Front(engine, Joins(engine, journal), lambda: plan, lambda: None, grace=grace)

            async def ready() -> None:
                return None

            url = await stack.enter_async_context(serving(http_app(front.routes(), metrics.registry, ready, lambda: True)))
            opened = Bench(model, journal, url, metrics.registry)
            stack.push_async_callback(opened.client.close)
            return opened

        yield open_


def text_of(chunks: list[Any]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_the_team_in_the_docs_compiles() -> None:
    text = (Path(__file__).parents[2] / "docs" / "run-a-team.md").read_text()
    spec = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0].replace("routingPolicyRef: { name: frontier }", "modelPoolRef: { name: boss }"))
    plan = compile_teams([AgentTeam.model_validate(spec)], [a_pool("boss"), a_pool("small")], [])
    assert plan.problems == ()
    assert list(plan.names) == ["contract-review", "legal/contract-review"]


async def test_the_models_that_the_client_lists(bench: Open) -> None:
    names = [model.id async for model in (await bench()).client.models.list()]
    assert names == ["legal/chain", "legal/poor", "legal/readers", "chain", "poor", "readers"]


@pytest.mark.parametrize("team", ["legal/chain", "legal/readers"])
async def test_usage_is_one_figure_everywhere(bench: Open, team: str) -> None:
    opened = await bench(faults={"server_error": 0.2})
    whole = await opened.ask(team)
    block = whole.modelfleet
    rows = await opened.journal.calls(block["run"])
    assert whole.choices[0].finish_reason == "stop"
    assert (block["state"], block["usageAssumed"], block["revision"]) == ("Succeeded", any(r.state == "assumed" for r in rows), the_plan().teams[team].revision)
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (sum(r.prompt_tokens for r in rows), sum(r.completion_tokens for r in rows))
    assert block["cost_micro_usd"] == sum(r.charged for r in rows) == sum(opened.series("modelfleet_team_cost_micro_usd_total").values())
    assert block["cost_micro_usd"] >= opened.model.cost, "the provider's own book is never above what the run was charged"
    assert block["budget_left_micro_usd"] == 500_000 - block["cost_micro_usd"]
    assert block["calls"] == len(rows) == len(opened.model.seen) == sum(opened.series("modelfleet_team_calls_total").values())
    for figure in ("calls", "prompt_tokens", "completion_tokens", "cost_micro_usd"):
        total = {"calls": block["calls"], "cost_micro_usd": block["cost_micro_usd"]} | whole.usage.model_dump()
        assert sum(role[figure] for role in block["byRole"]) == total[figure]
    tokens = Counter[str]()
    for (direction, _, _), value in opened.series("modelfleet_team_tokens_total").items():
        tokens[direction] += int(value)
    assert (tokens["input"], tokens["output"]) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    assert opened.series("modelfleet_team_runs_total") == {("Succeeded", block["stopReason"], team): 1.0}
    assert set(opened.series("modelfleet_team_reservation_open_micro_usd").values()) == {0.0}
    assert opened.model.refused_grants == []


@pytest.mark.parametrize("team", ["legal/chain", "legal/readers"])
async def test_a_stream_says_what_a_whole_answer_says(bench: Open, team: str) -> None:
    opened = await bench()
    whole, chunks = await opened.ask(team), await opened.stream(team)
    assert text_of(chunks) == whole.choices[0].message.content
    assert len(text_of(chunks)) > 0
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage.model_dump() == whole.usage.model_dump()
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].modelfleet | {"run": ""} == whole.modelfleet | {"run": ""}
    assert len([c for c in chunks if c.choices and c.choices[0].delta.content]) >= 1


@pytest.mark.parametrize("team", ["legal/chain", "legal/readers"])
async def test_what_a_run_costs_lies_within_its_estimate(bench: Open, team: str) -> None:
    opened, plans = await bench(), the_plan()
    plan = plans.teams[team]
    size = InputSize(len(QUESTION["content"].encode()), len(DOCUMENT["content"].encode()))
    told = estimate(strategy_of(plan).bound(plan, size), plan, plans.targets[team], plans.prices)
    assert told.minimum_micro_usd is not None
    assert told.worst_micro_usd is not None
    block = (await opened.ask(team)).modelfleet
    assert told.minimum_micro_usd <= block["cost_micro_usd"] <= told.worst_micro_usd
    assert block["calls"] <= told.max_model_calls


async def test_the_answer_is_streamed_as_it_comes(bench: Open) -> None:
    opened = await bench(pause=0.01, completion=(40, 40))
    assert len([c for c in await opened.stream() if c.choices and c.choices[0].delta.content]) > 5


async def test_what_the_client_wishes_reaches_the_answering_role_alone(bench: Open) -> None:
    opened = await bench()
    await opened.ask(max_tokens=7, temperature=0.125, top_p=0.5, seed=42, stop=["END"])
    reader, boss = (seen.body for seen in opened.model.seen)
    wishes = ("max_tokens", "temperature", "top_p", "seed", "stop")
    assert [boss.get(name) for name in wishes] == [7, 0.125, 0.5, 42, ["END"]]
    assert [reader.get(name) for name in wishes] == [20, 0.5, None, None, None]


async def test_an_answer_in_the_schema_that_the_client_asked_for(bench: Open) -> None:
    opened = await bench()
    schema = {"type": "object", "properties": {"clause": {"type": "integer", "minimum": 3}}, "required": ["clause"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    whole = await opened.ask(response_format=form)
    assert json.loads(whole.choices[0].message.content) == {"clause": 3}
    assert [seen.body.get("response_format") is not None for seen in opened.model.seen] == [False, True]


REFUSED: list[tuple[str, Any]] = [
    ("tools", [{"type": "function", "function": {"name": "f", "parameters": {}}}]), ("tool_choice", "required"), ("functions", [{"name": "f"}]), ("n", 2),
    ("logprobs", True), ("logit_bias", {"5": 1}), ("presence_penalty", 0.5), ("frequency_penalty", 0.5), ("audio", {"voice": "alloy", "format": "mp3"}),
    ("modalities", ["text", "audio"]), ("prediction", {"type": "content", "content": "x"}), ("store", True), ("web_search_options", {}),
    ("parallel_tool_calls", True), ("reasoning_effort", "low"), ("extra_body", {"nonsense": 1}),
]  # fmt: skip


async def test_refused_fields_are_a_bad_request_that_names_them(bench: Open) -> None:
    opened = await bench()
    for name, value in REFUSED:
        with pytest.raises(openai.BadRequestError) as caught:
            await opened.ask(**{name: value})
        assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "nonsense" if name == "extra_body" else name)
    assert opened.model.seen == []


async def test_an_unknown_team_a_sleeping_one_and_one_that_cannot_afford_a_start(bench: Open) -> None:
    opened = await bench()
    with pytest.raises(openai.NotFoundError) as unknown:
        await opened.ask("legal/nobody")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.InternalServerError) as asleep:
        await opened.ask("legal/asleep")
    assert (asleep.value.status_code, asleep.value.code) == (503, "team_suspended")
    for team, more in (("legal/poor", {}), ("legal/chain", {"extra_body": {"modelfleet": {"max_cost": "0.000001"}}})):
        with pytest.raises(openai.BadRequestError) as poor:
            await opened.ask(team, **more)
        assert poor.value.code == "budget_below_minimum"
    assert opened.model.seen == []


async def test_a_failed_run_is_told_with_its_cost_and_is_not_repeated_by_the_client(bench: Open) -> None:
    opened = await bench(faults={"server_error": 1.0})
    eager = opened.client.with_options(max_retries=3)
    with pytest.raises(openai.InternalServerError) as caught:
        await opened.ask(client=eager)
    assert (caught.value.status_code, caught.value.code) == (503, "team_failed")
    assert caught.value.response.json()["modelfleet"]["cost_micro_usd"] > 0
    assert sum(opened.series("modelfleet_team_runs_total").values()) == 1
    assert len({seen.grant.run for seen in opened.model.seen}) == 1


async def test_a_failure_after_content_raises_in_the_stream(bench: Open) -> None:
    opened = await bench(pause=0.01, completion=(40, 40), fate=lambda grant, _: "cut" if grant.role == "boss" else None)
    stream = await opened.ask(stream=True)
    seen: list[Any] = []

    async def read() -> None:
        async for chunk in stream:
            seen.append(chunk)  # noqa: PERF401 - what came before the error is asserted

    with pytest.raises(openai.APIError) as caught:
        await read()
    assert text_of(seen)
    assert all(choice.finish_reason is None for chunk in seen for choice in chunk.choices)
    assert caught.value.code == "team_failed"


async def test_the_client_s_deadline_is_a_504(bench: Open) -> None:
    opened = await bench(faults={"hang": 1.0})
    with pytest.raises(openai.InternalServerError) as caught:
        await opened.ask(extra_body={"modelfleet": {"deadline_ms": 200}})
    assert (caught.value.status_code, caught.value.code) == (504, "timeout")
    assert caught.value.response.json()["modelfleet"]["stopReason"] == "ClientDeadline"


async def test_a_client_that_leaves_its_stream_cancels_the_run_and_its_calls(bench: Open) -> None:
    opened = await bench(pause=0.05, completion=(40, 40))
    stream = await opened.ask(stream=True)
    async for chunk in stream:
        assert chunk.choices
        break
    await stream.close()
    run = opened.model.seen[0].grant.run
    for _ in range(1800):
        row = await opened.journal.run(run)
        if row is not None and row.state != "Running":
            break
        await asyncio.sleep(0.05)
    assert row is not None
    assert (row.state, row.stop_reason) == ("Cancelled", "ClientGone")
    assert set(opened.series("modelfleet_team_reservation_open_micro_usd").values()) == {0.0}


async def test_an_idempotency_key_is_one_run_for_the_official_client(bench: Open) -> None:
    opened = await bench(latency=(0.05, 0.1))
    headers: Mapping[str, str] = {"Idempotency-Key": "once"}
    first, second = await asyncio.gather(*(opened.ask(extra_headers=headers) for _ in range(2)))
    later = await opened.ask(extra_headers=headers)
    assert first.modelfleet == second.modelfleet == later.modelfleet
    assert first.choices == second.choices == later.choices
    assert len({seen.grant.run for seen in opened.model.seen}) == 1
    with pytest.raises(openai.UnprocessableEntityError):
        await opened.ask(extra_headers=headers, seed=1)


async def test_a_spent_budget_without_an_answer_is_a_quota_error(bench: Open) -> None:
    opened = await bench(answer=lambda *_: "w " * 20, inflated=1.0)
    with pytest.raises(openai.RateLimitError) as caught:
        await opened.ask()
    assert caught.value.code == "insufficient_quota"
    assert caught.value.response.json()["modelfleet"]["stopReason"] == "ProviderOverran"
