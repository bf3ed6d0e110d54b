"""Grants and teams on the real Envoy, decided by the real decider: what is refused, what is served, and that no grant goes further than the decider."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest
from tests.support.envoy import Answer, Bench, Reply, Upstream, a_bench, a_policy, a_pool, completion, remote, stream, until

from modelfleet.core.grants import GRANT_HEADER, Grant, sign_grant
from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.decide import routing_table
from modelfleet.core.routing.ir import Address, RoutingWorld, TeamRoute
from modelfleet.router.authz import Decider, decision_json, question
from modelfleet.router.explain import explain_lines, explain_with
from modelfleet.router.grants import GrantReader

KEY, OLD = b"key-of-today", b"key-of-yesterday"
POOL, POLICY = "pool:shop/small", "policy:shop/p"
CALL = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 10}
ONE = [{"flavor": "gpu", "inputPerMillion": "1", "outputPerMillion": "1"}]


def a_grant(target: str = POOL, *, key: bytes = KEY, most: int = 10_000, lasts: float = 300) -> str:
    return sign_grant(Grant("shop/t", "r1", "reader", "c1", "anonymous", target, int(time.time() + lasts), most), key)


@dataclass
class Team:
    """A gateway with its real decider, two pools, and a stand-in for the team runtime."""

    bench: Bench
    decider: Decider
    server: grpc.aio.Server
    keys: Path
    small: Upstream
    large: Upstream
    runtime: Upstream

    def world(self) -> RoutingWorld:
        return RoutingWorld(
            pools=(a_pool("small", price=ONE), a_pool("large", price=[ONE[0] | {"outputPerMillion": "900"}])),
            policies=(a_policy("p", "large", "small", rules=[{"name": "x", "match": {"tools": "Absent"}}]),),
            addresses={f"shop/{n}": (Address("127.0.0.1", u.port, "gpu"),) for n, u in (("small", self.small), ("large", self.large))},
            teams=(TeamRoute("shop/t", ("shop/t", "t"), 4, "r-1", (POOL, POLICY)),),
            team_addresses=(Address("127.0.0.1", self.runtime.port, ""),),
        )

    async def call(self, model: str, grant: str | None, **body: object) -> Answer:
        sent = {k: v for k, v in {"model": model, **CALL, **body}.items() if v is not None}
        return await self.bench.ask(sent, headers={GRANT_HEADER: grant} if grant else {})


@pytest.fixture
async def team(tmp_path: Path) -> AsyncIterator[Team]:
    (tmp_path / "2026-11").write_bytes(KEY + b"\n")
    (tmp_path / "2026-10").write_bytes(OLD)
    bench = await a_bench()
    decider = Decider(grants=GrantReader(str(tmp_path)))
    server = grpc.aio.server()
    decider.add_to(server)
    server.add_insecure_port(f"unix:{bench.settings.run_dir}/authz.sock")
    await server.start()
    ups = [await Upstream(lambda r: stream() if r.json.get("stream") else completion()).start() for _ in range(3)]
    made = Team(bench, decider, server, tmp_path, *ups)
    decider.use(await bench.serve(made.world()))
    yield made
    await server.stop(None)
    await bench.close()
    for upstream in ups:
        await upstream.stop()


def code_of(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["error"]["code"]


async def test_only_a_good_grant_for_this_very_target_is_served(team: Team) -> None:
    for grant in (a_grant(), a_grant(key=OLD)):
        answer = await team.call(POOL, grant, stream=True)
        assert (answer.status, answer.headers.get("x-modelfleet-served")) == (200, "shop/small/gpu"), answer
    before = len(team.small.requests) + len(team.large.requests)
    whole = a_grant()
    forged = whole[:8] + ("A" if whole[8] != "A" else "B") + whole[9:]
    for model, given in (
        (POOL, None), (POLICY, None), (POOL, "nonsense"), (POOL, forged), (POOL, a_grant(key=b"other")), (POOL, a_grant(lasts=-1)),
        (POLICY, a_grant(POOL)), (POOL, a_grant(POLICY)), (POOL, a_grant("pool:shop/large")), (POOL, f"{whole},{whole}"),
    ):  # fmt: skip
        answer = await team.call(model, given)
        assert code_of(answer) == (403, "GrantInvalid"), (model, given)
        assert given is None or given[:20] not in answer.body.decode() + str(answer.headers)
    assert code_of(await team.call(POOL, a_grant(most=10))) == (403, "AboveGrant")
    assert code_of(await team.call(POOL, a_grant(), max_tokens=None)) == (400, "AboveGrant")
    assert code_of(await team.call("pool:shop/large", a_grant("pool:shop/large"))) == (404, "model_not_found")
    assert len(team.small.requests) + len(team.large.requests) == before


async def test_the_chain_of_a_policy_leaves_out_what_the_grant_does_not_pay(team: Team) -> None:
    cheap, rich = await team.call(POLICY, a_grant(POLICY, most=100)), await team.call(POLICY, a_grant(POLICY))
    assert [a.headers["x-modelfleet-served"] for a in (cheap, rich)] == ["shop/small/gpu", "shop/large/gpu"]
    assert cheap.headers["x-modelfleet-decision"].endswith(f"policy={POLICY}/1;rule=x;chain=small;why=RuleMatched")


async def test_a_grant_goes_no_further_than_the_decider_and_means_nothing_elsewhere(team: Team) -> None:
    grant = a_grant()
    for model in (POOL, "auto", "shop/t"):
        assert (await team.call(model, grant)).status == 200
    for upstream in (team.small, team.large, team.runtime):
        assert not any(GRANT_HEADER in request.headers for request in upstream.requests)
    await team.bench.logged(3)
    told = str(team.bench.logs.entries) + team.bench.envoy.log() + repr(list(team.decider._recent.values()))
    assert grant[:30] not in told
    assert "anonymous" not in told


async def test_what_may_have_been_billed_is_not_repeated(team: Team) -> None:
    for reply, attempts in ((Reply(503), 3), (Reply(429), 3), (Reply(500), 1), (Reply(reset=True), 1)):
        team.small.reply = lambda _, reply=reply: reply
        before = len(team.small.requests)
        assert (await team.call(POOL, a_grant())).status >= 429
        assert len(team.small.requests) - before == attempts, reply


async def test_keys_that_change_are_read_again_and_without_a_decider_targets_refuse(team: Team) -> None:
    assert (await team.call(POOL, a_grant(key=OLD))).status == 200
    (team.keys / "2026-12").write_bytes(b"key-of-tomorrow")
    (team.keys / "2026-10").unlink()
    team.decider._grants._looked = None
    assert (await team.call(POOL, a_grant(key=b"key-of-tomorrow"))).status == 200
    assert (await team.call(POOL, a_grant(key=OLD))).status == 403
    await team.server.stop(None)
    for target in (POOL, POLICY):
        assert code_of(await team.call(target, a_grant(target))) == (503, "decider_lost")
    for name in ("auto", "shop/t"):
        assert (await team.call(name, None)).status == 200


async def test_a_teams_names_lead_to_the_runtime_with_a_caller_that_no_client_sets(team: Team) -> None:
    models = await team.bench.ask(None, path="/v1/models", method="GET")
    assert [m["id"] for m in models.json["data"]] == ["auto", "shop/t", "t"]
    assert POOL not in (await team.bench.chat("nix")).body.decode()
    for name in ("shop/t", "t"):
        sent = {"model": name, "stream": True, "messages": [], "metadata": {"model": name}}
        forged = {"x-modelfleet-caller": "boss", "x-modelfleet-decision": "mine", "authorization": "Bearer me", "idempotency-key": "i-1"}
        answer = await team.bench.ask(sent, headers=forged)
        assert (answer.status, answer.headers["x-modelfleet-decision"]) == (200, "policy=-;team=shop/t/4;chain=teams;why=Team")
        got = team.runtime.requests[-1]
        assert got.json == sent
        assert {n: v for n, v in got.headers.items() if n.startswith(("x-modelfleet", "auth"))} == {"x-modelfleet-caller": "anonymous"}
        assert got.headers["idempotency-key"] == "i-1"


async def raw(port: int, *lines: str, model: str = "t") -> str:
    """One request with header lines as written; the status line."""
    body = json.dumps({"model": model, **CALL})
    head = ("POST /v1/chat/completions HTTP/1.1", "host: x", "content-type: application/json", f"content-length: {len(body)}", *lines)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(("\r\n".join(head) + "\r\n\r\n" + body).encode())
    status = (await reader.readline()).decode()
    writer.close()
    return status


@pytest.mark.parametrize(
    "lines",
    [
        ("X-ModelFleet-Caller: boss",),
        ("x-modelfleet-caller: boss", "X-MODELFLEET-CALLER: boss2"),
        ("connection: x-modelfleet-caller", "x-modelfleet-caller: boss"),
        ("connection: close, x-modelfleet-caller",),
        ("x-app: 1", "\tx-modelfleet-caller: boss"),
        ("x-modelfleet-caller:", "x-modelfleet-callers: boss"),
        ("x-modelfleet-caller : boss",),
        ("x_modelfleet_caller: boss",),
        ("x-modelfleet_caller: boss",),
        ("x-modelfleet-caller\x00: boss",),
        ("x-modelfleet-caller: anonymous\r\n folded: boss",),
    ],
)
async def test_no_spelling_of_the_caller_reaches_the_runtime(team: Team, lines: tuple[str, ...]) -> None:
    """Refused, or served with the gateway's word alone."""
    status = (await raw(team.bench.port, *lines)).split()[1:2]
    assert status in (["200"], ["400"])
    assert bool(team.runtime.requests) == (status == ["200"])
    for request in team.runtime.requests:
        ours = {n: v for n, v in request.headers.items() if "modelfleet" in n.replace("_", "-").lower()}
        assert ours == {"x-modelfleet-caller": "anonymous"}


@pytest.mark.parametrize("spelled", ["{0}, {0}", "{0},", ",{0}", "{0}\r\nx-modelfleet-grant: {0}", "{0}\r\nx-modelfleet-grant: x", "Bearer {0}", "{0}=="])
async def test_a_grant_is_one_header_written_once(team: Team, spelled: str) -> None:
    status = await raw(team.bench.port, f"X-Modelfleet-Grant: {spelled.format(a_grant())}", model=POOL)
    assert " 403 " in status, status
    assert not team.small.requests


async def test_what_envoy_kept_of_a_policy_does_not_take_a_teams_name(team: Team) -> None:
    """A policy of another namespace turns into a form that Envoy refuses: its old form stays, without the name that is a team's now."""
    thief = a_policy("q", "small", entrypoints=["other", "late/team"])
    world = replace(team.world(), policies=(*team.world().policies, thief))
    team.decider.use(await team.bench.serve(world))
    assert (await team.bench.chat("late/team")).headers["x-modelfleet-served"] == "shop/small/gpu"
    bad = a_policy("q", "bad", "small", entrypoints=["other", "late/team"])
    late = TeamRoute("late/team", ("late/team",), 1, "r-2")
    pools = (*world.pools, a_pool("bad", remote("far", "http://127.0.0.1:65536")))
    await team.bench.serve(replace(world, pools=pools, policies=(*team.world().policies, bad), teams=(*world.teams, late)), wait=False)
    await until(lambda: "shop/q" in team.bench.ads.rejected and late.key in team.bench.ads.acked, "isolation")
    await team.bench.settled()
    answer = await team.bench.chat("late/team")
    assert answer.headers["x-modelfleet-decision"] == "policy=-;team=late/team/1;chain=teams;why=Team"
    assert (await team.bench.chat("other")).headers["x-modelfleet-served"] == "shop/small/gpu"
    for target in (POOL, POLICY):
        assert (await team.call(target, a_grant(target))).status == 200


async def test_a_run_that_may_have_begun_is_not_begun_again_and_no_runtime_is_an_ordinary_503(team: Team) -> None:
    for reply in (Reply(503), Reply(reset=True), Reply(429)):
        before = len(team.runtime.requests)
        team.runtime.reply = lambda _, reply=reply: reply
        assert (await team.bench.chat("t")).status >= 429
        assert len(team.runtime.requests) == before + 1
    team.runtime.reply = lambda _: completion()
    for addresses, status in (((), 503), (team.world().team_addresses, 200)):
        await team.bench.serve(replace(team.world(), team_addresses=addresses))
        for _ in range(1800):
            answer = await team.bench.chat("t")
            if answer.status == status:
                break
            await asyncio.sleep(0.05)
        assert answer.status == status
        assert status == 200 or code_of(answer) == (503, "no_ready_replica")


def test_explain_tells_of_a_grant_without_showing_it() -> None:
    plan = compile_routes(RoutingWorld((a_pool("small", price=ONE),), teams=(TeamRoute("shop/t", ("shop/t",), 1, "r", (POOL,)),)))
    body, grant = json.dumps({"model": POOL, **CALL}).encode(), a_grant()
    offline = explain_with(plan, POOL, body, {GRANT_HEADER: grant})
    assert offline["explanation"][1] == "refused: the grant is not signed by a key this gateway knows"
    reader = GrantReader()
    reader._keys = (KEY,)
    decider = Decider(grants=reader)
    decider.use(plan)
    live = decision_json(decider.ask(body, {GRANT_HEADER: grant}, "x"))
    assert live["explanation"][1] == "the grant is good: this call may cost at most 10000 micro-dollars"
    assert grant[:20] not in json.dumps([live, offline])


def test_explain_of_a_teams_name_says_who_answers() -> None:
    plan = compile_routes(RoutingWorld(teams=(TeamRoute("shop/t", ("shop/t", "t"), 4, "r"),)))
    told = explain_with(plan, None, json.dumps({"model": "t", **CALL}).encode(), {})
    assert (told["header"], told["team"], told["compiled"]) == ("policy=-;team=shop/t/4;chain=teams;why=Team", "shop/t", None)
    assert explain_lines(told)[1:] == ["model t: team shop/t, generation 4", "answer: the team runtime, which calls models for each role under grants"]


def test_only_a_grant_for_this_name_makes_the_decider_tell_what_a_call_costs() -> None:
    """A schema of a megabyte takes longer to read than a decision may take: nobody without a grant may make others wait for it."""
    table = routing_table(compile_routes(RoutingWorld((a_pool("small", price=ONE),), teams=(TeamRoute("shop/t", ("shop/t",), 1, "r", (POOL,)),))))
    body = json.dumps({"model": POOL, **CALL, "response_format": {"type": "json_schema", "schema": [{}] * 100}}).encode()
    reader = GrantReader()
    reader._keys = (KEY,)
    for lifted in (POOL, None):
        for grant, told in ((None, False), ("nonsense", False), (a_grant(key=b"other"), False), (a_grant("pool:shop/large"), False), (a_grant(), True)):
            headers = {GRANT_HEADER: grant} if grant else {}
            remembered, facts = question(table, body, headers, "d", lifted=lifted, policy=POOL, grants=reader)
            assert facts is not None
            assert (facts.bound is not None, remembered.decision.refusal is None) == (told, told), (lifted, grant)


def test_numbers_of_thousands_of_digits_are_refused_in_words() -> None:
    table = routing_table(compile_routes(RoutingWorld((a_pool("small", price=ONE),), teams=(TeamRoute("shop/t", ("shop/t",), 1, "r", (POOL,)),))))
    reader = GrantReader()
    reader._keys = (KEY,)
    for more in ({"max_tokens": 10**4000, "n": 10**4000}, {"n": 10**10}, {"max_tokens": 10**10}, {"max_completion_tokens": 10**10}):
        body = json.dumps({"model": POOL, **CALL, **more}).encode()
        remembered, _ = question(table, body, {GRANT_HEADER: a_grant()}, "d", lifted=POOL, policy=POOL, grants=reader)
        assert remembered.decision.refusal is not None
        assert (remembered.decision.refusal.status, "max_tokens" in remembered.decision.refusal.message) == (400, True)
