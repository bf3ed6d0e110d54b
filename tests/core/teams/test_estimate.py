"""Worst and minimum hold for every run within the bound; unknown prices give no figure."""

from hypothesis import given, settings, strategies as st

from modelfleet.api.v1alpha1.agentteam import Chain, ChainStep
from modelfleet.core.teams.budget import Usage, reservation, settled
from modelfleet.core.teams.estimate import estimate
from modelfleet.core.teams.ir import BudgetPlan, RolePlan, RoleTarget, Target, TeamPlan, TokenPrice
from modelfleet.core.teams.strategies.protocol import Bound, Message, RoleBound
from modelfleet.core.teams.tokens import LONGEST_TOKEN_BYTES, prompt_bound

CPU, GPU, PAID = ("ns/small", "cpu"), ("ns/small", "gpu"), ("ns/boss", "paid")
PRICES = {CPU: TokenPrice(100_000, 900_000), GPU: TokenPrice(200_000, 400_000), PAID: TokenPrice(3_000_000, 15_000_000)}
TARGETS = {"reader": RoleTarget((CPU, GPU), 2, usable=True), "boss": RoleTarget((PAID,), 1, usable=True)}


def plan(*roles):
    return TeamPlan(
        key="ns/team",
        generation=1,
        revision="r",
        description="",
        suspended=False,
        roles={role.name: role for role in roles or (role_plan("boss"), role_plan("reader"))},
        strategy=Chain(steps=[ChainStep(name="one", role="boss")]),
        answering_role="boss",
        budget=BudgetPlan(20_000, None, 100, 60.0, finalize=True),
        max_runs=1,
        queue=1,
        journal_full=True,
        journal_ttl=60.0,
    )


def role_plan(name, schema=None):
    return RolePlan(name, Target("pool", f"ns/{name}"), "", 200, 60.0, 4, schema=schema)


BOUND = Bound({"reader": RoleBound(10, 10, 10_000, 5000, 2000), "boss": RoleBound(1, 1, 4000, 1000, 300)})


def test_figures_by_hand():
    result = estimate(BOUND, plan(), TARGETS, PRICES)
    reader = (10_000 + 10 * 96) * 200_000 + 2000 * 900_000  # the dearest of both, part by part
    boss = (4000 + 96) * 3_000_000 + 300 * 15_000_000
    assert result.worst_micro_usd == -(-reader // 1_000_000) + 9 + -(-boss // 1_000_000)
    assert result.minimum_micro_usd == 4 + 24  # 40 tokens at 0.1, 8 at 3
    assert result.max_model_calls == 11
    assert result.worst_prices == {"boss": PRICES[PAID], "reader": TokenPrice(200_000, 900_000)}
    assert result.unpriced == ()


def test_an_output_schema_is_part_of_every_prompt():
    schema = '{"type":"object"}'
    with_schema = estimate(BOUND, plan(role_plan("boss", schema), role_plan("reader")), TARGETS, PRICES)
    assert with_schema.worst_micro_usd - estimate(BOUND, plan(), TARGETS, PRICES).worst_micro_usd == len(schema) * 3


def test_an_unknown_price_gives_no_figure_and_is_named():
    result = estimate(BOUND, plan(), TARGETS, {flavor: price for flavor, price in PRICES.items() if flavor != GPU})
    assert (result.worst_micro_usd, result.minimum_micro_usd) == (None, None)
    assert result.unpriced == (GPU,)
    assert result.worst_prices == {"boss": PRICES[PAID], "reader": None}


def test_a_role_without_candidates_has_no_price():
    result = estimate(BOUND, plan(), {"boss": TARGETS["boss"]}, PRICES)
    assert (result.worst_micro_usd, result.worst_prices["reader"], result.unpriced) == (None, None, ())


def test_a_role_that_is_never_asked_needs_no_price():
    never = Bound({"boss": BOUND.roles["boss"], "reader": RoleBound()})
    assert estimate(never, plan(), {"boss": TARGETS["boss"]}, PRICES).worst_micro_usd is not None


def test_a_role_that_need_not_be_asked_leaves_the_minimum_known():
    maybe = Bound({"boss": BOUND.roles["boss"], "reader": RoleBound(5, 0, 500, 0, 50)})
    result = estimate(maybe, plan(), {"boss": TARGETS["boss"]}, PRICES)
    assert (result.worst_micro_usd, result.minimum_micro_usd) == (None, 24)


@st.composite
def scripted_runs(draw):
    """A bound, and calls that keep to it: (role, prompt bytes, completion tokens) each, with what was reserved and what was charged."""
    table = draw(st.fixed_dictionaries(dict.fromkeys(PRICES, st.builds(TokenPrice, st.integers(0, 50_000_000), st.integers(0, 50_000_000)))))
    bounds, reserved, charged = {}, 0, 0
    for role, target in TARGETS.items():
        sizes = draw(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 400)), max_size=6))
        spare = draw(st.integers(0, 50))
        least = draw(st.integers(0, len(sizes)))
        bounds[role] = RoleBound(
            max_calls=len(sizes),
            min_calls=least,
            max_prompt_bytes=sum(size for size, _ in sizes) + spare,
            min_prompt_bytes=sum(sorted(size for size, _ in sizes)[:least]),
            max_completion_tokens=sum(limit for _, limit in sizes) + spare,
        )
        for size, limit in sizes:
            bound = prompt_bound([Message("system", "x" * (size // 2)), Message("user", "x" * (size - size // 2))])
            reserved += reservation(bound, limit, [table[flavor] for flavor in target.flavors]).micro_usd
            usage = Usage(draw(st.integers(-(-size // LONGEST_TOKEN_BYTES), bound)), draw(st.integers(0, limit)))
            charged += settled(usage, table[draw(st.sampled_from(target.flavors))]).micro_usd
    return Bound(bounds), table, reserved, charged


@settings(max_examples=50, deadline=None)
@given(scripted_runs())
def test_minimum_actual_worst_always_in_this_order(run):
    bound, table, reserved, charged = run
    result = estimate(bound, plan(), TARGETS, table)
    assert 0 <= result.minimum_micro_usd <= charged <= reserved <= result.worst_micro_usd
