"""The ledger: one table of decisions, and the laws B1, B3 to B6 and B8 to B11 of docs/adr/0011 under random histories."""

import ast
import inspect
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from modelfleet.core.teams import budget
from modelfleet.core.teams.budget import DEFER, GRANTED, NOTHING, Amount, Caps, Ledger, Usage, Verdict, cost, reservation, settled, unpriced
from modelfleet.core.teams.ir import BudgetPlan, TokenPrice

PRICE = TokenPrice(150_000, 600_000)
amounts = st.builds(Amount, st.integers(0, 9), st.integers(0, 9), st.just(1))  # small, so that caps are met to the micro-dollar
prices = st.builds(TokenPrice, st.integers(0, 100_000_000), st.integers(0, 100_000_000))
usages = st.builds(Usage, st.integers(0, 200_000), st.integers(0, 200_000))


def opened(cost_cap=1000, tokens=None, calls=None, holdback=NOTHING):
    ledger, verdict = Ledger.open(Caps(cost_cap, tokens, calls), holdback)
    assert verdict == GRANTED
    return ledger


def granted(ledger, call_id, amount, *, final=False):
    ledger, verdict = ledger.reserve(call_id, amount, final=final)
    assert verdict == GRANTED
    return ledger


def part_sum(parts):
    total = NOTHING
    for part in parts:
        total += part
    return total


# --- arithmetic ---


def test_money_has_no_floats():
    tree = ast.parse(inspect.getsource(budget))
    floats = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, float)]
    divisions = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div)]
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in {"float", "round", "Decimal", "Fraction"}]
    assert floats + divisions + names == []


@pytest.mark.parametrize(
    ("prompt", "completion", "micro_usd"),
    [(0, 0, 0), (1, 0, 1), (6, 0, 1), (7, 0, 2), (1_000_000, 1_000_000, 750_000), (1_000_001, 0, 150_001), (3, 1, 2)],
)
def test_a_call_is_rounded_up_once(prompt, completion, micro_usd):
    assert cost(prompt, completion, PRICE) == micro_usd


def test_negative_tokens_are_no_usage():
    with pytest.raises(ValueError, match="negative"):
        cost(-1, 5, PRICE)


@pytest.mark.parametrize("parts", [(-1, 0, 0), (0.5, 0, 0), (1, True, 0)])
def test_an_amount_is_made_of_whole_things(parts):
    with pytest.raises(ValueError, match="integers"):
        Amount(*parts)


def test_a_reservation_is_the_greatest_over_the_candidates():
    cheap_prompt, cheap_answer = TokenPrice(1_000_000, 9_000_000), TokenPrice(4_000_000, 2_000_000)
    assert reservation(100, 10, [cheap_prompt, cheap_answer]) == Amount(420, 110, 1)
    assert reservation(10, 100, [cheap_prompt, cheap_answer]) == Amount(910, 110, 1)


def test_b9_what_nobody_can_price_is_not_reserved():
    table = {("ns/a", "cpu"): PRICE}
    assert unpriced([("ns/b", "gpu"), ("ns/a", "cpu"), ("ns/a", "gpu"), ("ns/b", "gpu")], table) == (("ns/a", "gpu"), ("ns/b", "gpu"))
    assert unpriced([("ns/a", "cpu")], table) == ()
    with pytest.raises(ValueError, match="no candidate has a price"):
        reservation(10, 10, [])


@given(usages, st.integers(0, 5000), st.integers(0, 5000), prices)
def test_b10_more_usage_never_costs_less(usage, more_prompt, more_completion, price):
    before = settled(usage, price)
    after = settled(Usage(usage.prompt_tokens + more_prompt, usage.completion_tokens + more_completion), price)
    assert after.micro_usd >= before.micro_usd
    assert after.tokens == before.tokens + more_prompt + more_completion


@given(usages, st.lists(prices, min_size=1, max_size=4), st.data())
def test_usage_within_bounds_never_exceeds_its_reservation(bound, candidates, data):
    actual = Usage(data.draw(st.integers(0, bound.prompt_tokens)), data.draw(st.integers(0, bound.completion_tokens)))
    reserved = reservation(bound.prompt_tokens, bound.completion_tokens, candidates)
    taken = settled(actual, data.draw(st.sampled_from(candidates)))
    assert taken.within(reserved) == taken


# --- decisions ---


@pytest.mark.parametrize(
    ("caps", "amount", "verdict"),
    [
        (Caps(100, 100, 1), Amount(100, 100, 1), GRANTED),
        (Caps(None, None, None), Amount(10**12, 10**12, 1), GRANTED),
        (Caps(100, 100, 1), Amount(101, 101, 2), Verdict("Refused", "RunCost")),
        (Caps(None, 100, 1), Amount(101, 101, 2), Verdict("Refused", "RunTokens")),
        (Caps(100, 101, 1), Amount(100, 100, 2), Verdict("Refused", "RunModelCalls")),
    ],
)
def test_the_first_broken_cap_refuses(caps, amount, verdict):
    assert Ledger(caps).reserve("a", amount)[1] == verdict


def test_what_does_not_fit_waits_for_open_calls_and_is_refused_without():
    ledger = granted(opened(), "a", Amount(600, 10, 1))
    same, verdict = ledger.reserve("b", Amount(500, 10, 1))
    assert (same, verdict) == (ledger, DEFER)
    cheap = ledger.settle("a", Amount(499, 10, 1))
    assert cheap.reserve("b", Amount(500, 10, 1))[1] == GRANTED
    dear = ledger.settle("a", Amount(501, 10, 1))
    assert dear.reserve("b", Amount(500, 10, 1))[1] == Verdict("Refused", "RunCost")


def test_what_would_not_fit_an_idle_run_does_not_wait():
    ledger = granted(opened(), "a", Amount(600, 10, 1))
    assert ledger.reserve("b", Amount(1001, 10, 1))[1] == Verdict("Refused", "RunCost")


def test_settling_or_releasing_twice_changes_nothing():
    ledger = granted(opened(), "a", Amount(600, 10, 1)).settle("a", Amount(5, 5, 1))
    assert ledger.settle("a", Amount(7, 7, 1)) is ledger
    assert ledger.release("a") is ledger
    assert ledger.charged == Amount(5, 5, 1)


def test_a_released_call_does_not_count_as_an_attempt_and_a_free_one_does():
    ledger = granted(opened(calls=1), "a", Amount(5, 5, 1))
    assert ledger.release("a").reserve("b", Amount(5, 5, 1))[1] == GRANTED
    assert ledger.settle("a", NOTHING).reserve("b", Amount(5, 5, 1))[1] == Verdict("Refused", "RunModelCalls")


def test_an_assumed_charge_never_exceeds_its_reservation():
    ledger = granted(opened(), "a", Amount(600, 10, 1))
    assert ledger.settle("a", assumed=True).charged == Amount(600, 10, 1)
    estimated = ledger.settle("a", Amount(700, 4, 1), assumed=True)
    assert (estimated.charged, estimated.assumed, estimated.overran) == (Amount(600, 4, 1), 1, False)
    with pytest.raises(ValueError, match="only an assumed charge"):
        ledger.settle("a")


def test_a_provider_that_overruns_is_paid_and_ends_ordinary_calls():
    holdback = Amount(100, 10, 1)
    ledger = granted(opened(holdback=holdback), "a", Amount(600, 10, 1)).settle("a", Amount(700, 10, 1))
    assert (ledger.charged.micro_usd, ledger.overran) == (700, True)
    assert ledger.reserve("b", Amount(1, 1, 1))[1] == Verdict("Refused", "ProviderOverran")
    assert ledger.reserve("b", holdback, final=True)[1] == GRANTED
    broke = granted(opened(holdback=holdback), "a", Amount(600, 10, 1)).settle("a", Amount(950, 10, 1))
    assert broke.reserve("b", holdback, final=True)[1] == Verdict("Refused", "RunCost")


def test_the_holdback_is_for_final_calls_and_comes_back_with_a_release():
    holdback = Amount(400, 40, 1)
    ledger = opened(holdback=holdback)
    assert ledger.left == Caps(600, None, None)
    assert ledger.reserve("a", Amount(601, 1, 1))[1] == Verdict("Refused", "RunCost")
    full = granted(ledger, "a", Amount(600, 1, 1))
    assert full.reserve("b", Amount(1, 1, 1))[1] == DEFER  # "a" may give money back, the holdback does not
    final = granted(full, "end", holdback, final=True)
    assert (final.holdback, final.left.micro_usd) == (NOTHING, 0)
    assert final.release("end") == full
    assert granted(full, "small", Amount(100, 5, 1), final=True).holdback == Amount(300, 35, 0)


def test_a_run_that_cannot_pay_its_finalizing_call_does_not_start():
    assert Ledger.open(Caps(100, None, 10), Amount(101, 5, 1))[1] == Verdict("Refused", "RunCost")
    assert Ledger.open(Caps(100, 4, 10), Amount(100, 5, 1))[1] == Verdict("Refused", "RunTokens")


def test_an_open_id_is_not_reserved_again():
    ledger = granted(opened(), "a", Amount(5, 5, 1))
    with pytest.raises(ValueError, match="open already"):
        ledger.reserve("a", Amount(5, 5, 1))


def test_caps_of_a_plan():
    assert Caps.of(BudgetPlan(cost_micro_usd=20_000, tokens=None, model_calls=7, wall_clock=60, finalize=True)) == Caps(20_000, None, 7)


# --- laws ---


@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=12), st.data())
def test_b6_the_charge_does_not_depend_on_the_order(calls, data):
    ledger = Ledger(Caps(None, None, None))
    for number in data.draw(st.permutations([*range(len(calls))] * 2)):  # its first turn reserves, its second settles
        reserved, actual = calls[number]
        call = str(number)
        ledger = ledger.settle(call, actual.within(reserved)) if call in ledger.open_calls else granted(ledger, call, reserved)
    assert ledger.charged == part_sum(actual.within(reserved) for reserved, actual in calls)
    assert ledger.reserved == NOTHING


class Run(RuleBasedStateMachine):
    """A run's history, beside a book that is kept by hand. Usage stays within reservations unless the machine says otherwise."""

    inflated = False

    @initialize(micro=st.none() | st.integers(5, 40), tokens=st.none() | st.integers(5, 40), calls=st.integers(2, 12), holdback=amounts | st.just(NOTHING))
    def start(self, micro, tokens, calls, holdback):
        self.ledger, verdict = Ledger.open(Caps(micro, tokens, calls), holdback)
        if not verdict.granted:  # such a run does not start; this one does without a holdback
            holdback = NOTHING
            self.ledger = Ledger.open(Caps(micro, tokens, calls))[0]
        self.holdback = holdback
        self.final_used = False
        self.number = 0
        self.open, self.ends, self.charges = {}, {}, {}
        self.excess = NOTHING

    @rule(amount=amounts, final=st.booleans(), role=st.sampled_from(["boss", "reader"]), pool=st.sampled_from(["a", "b"]))
    def reserve(self, amount, final, role, pool):
        self.number += 1
        call = f"{role}/{pool}/{self.number}"
        after, verdict = self.ledger.reserve(call, amount, final=final)
        if not verdict.granted:
            assert after is self.ledger  # B5
            self.deferred_or_refused(call, amount, final, verdict)
            return
        self.ledger = after
        self.open[call] = amount
        self.final_used = self.final_used or final

    def deferred_or_refused(self, call, amount, final, verdict):
        idle = self.ledger
        for other in self.open:
            idle = replace(idle.release(other), holdback=self.ledger.holdback)
        if verdict == DEFER:
            assert self.open
            assert idle.reserve(call, amount, final=final)[1] == GRANTED
        else:
            assert idle.reserve(call, amount, final=final)[1] == verdict

    @precondition(lambda self: self.open)
    @rule(data=st.data(), how=st.sampled_from(["settled", "assumed", "released"]))
    def end(self, data, how):
        call = data.draw(st.sampled_from(sorted(self.open)))
        reserved = self.open.pop(call)
        if how == "released":
            self.ledger, charge = self.ledger.release(call), NOTHING
        else:
            room = 8 if self.inflated and how == "settled" else 0
            actual = Amount(data.draw(st.integers(0, reserved.micro_usd + room)), data.draw(st.integers(0, reserved.tokens + room)), 1)
            self.ledger, charge = self.ledger.settle(call, actual, assumed=how == "assumed"), actual
            self.excess += replace(actual, calls=0).less(reserved)
        assert call not in self.ends  # B3
        self.ends[call], self.charges[call] = how, charge

    @precondition(lambda self: self.ends)
    @rule(data=st.data(), amount=amounts)
    def end_again(self, data, amount):
        call = data.draw(st.sampled_from(sorted(self.ends)))
        assert self.ledger.settle(call, amount) is self.ledger
        assert self.ledger.release(call) is self.ledger

    @invariant()
    def b1_charged_and_open_fit_the_caps(self):
        if not hasattr(self, "ledger"):
            return
        caps, total = self.ledger.caps, self.ledger.charged + self.ledger.reserved + (NOTHING if self.inflated else self.ledger.holdback)
        assert caps.micro_usd is None or total.micro_usd <= caps.micro_usd + self.excess.micro_usd
        assert caps.tokens is None or total.tokens <= caps.tokens + self.excess.tokens
        assert total.calls <= caps.calls

    @invariant()
    def b8_the_finalizing_call_can_be_paid(self):
        if hasattr(self, "ledger") and self.holdback != NOTHING and not self.final_used and self.excess == NOTHING:
            assert self.ledger.reserve("finalize", self.holdback, final=True)[1] == GRANTED

    @invariant()
    def b11_the_books_agree(self):
        if not hasattr(self, "ledger"):
            return
        for place in (0, 1):
            groups = {call.split("/")[place] for call in self.charges}
            by_group = [part_sum(charge for call, charge in self.charges.items() if call.split("/")[place] == group) for group in groups]
            assert part_sum(by_group) == self.ledger.charged
        assert part_sum(self.open.values()) == self.ledger.reserved
        assert self.ledger.assumed == sum(how == "assumed" for how in self.ends.values())
        assert self.ledger.overran == (self.excess != NOTHING)

    def teardown(self):
        if hasattr(self, "ledger"):
            for call in self.open:
                self.ledger = self.ledger.settle(call, assumed=True)
            assert (self.ledger.reserved, dict(self.ledger.open_calls)) == (NOTHING, {})  # B4


class InflatedRun(Run):
    """The general form of B1: what providers report above their bounds is the only excess."""

    inflated = True


TestRun = Run.TestCase
TestRun.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestInflatedRun = InflatedRun.TestCase
TestInflatedRun.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
