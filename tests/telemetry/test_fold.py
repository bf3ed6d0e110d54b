"""Counters of gateways become tokens served, whatever routers do: restart, vanish, lie, fall silent."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from modelfleet.core.world import EndpointHealth
from modelfleet.telemetry.fold import FRESH_SECONDS, WINDOW_SECONDS, Fold, Sample, fold, telemetry_of

IN = ("a/small", "l4", "input")
OUT = ("a/small", "l4", "output")
G1, G2 = "gw-1@10.0.0.1", "gw-2@10.0.0.2"


def run(*rounds: dict[str, Sample], present: frozenset[str] = frozenset({G1, G2}), every: float = 5.0) -> tuple[Fold, float]:
    state, now = Fold(), 100.0
    for samples in rounds:
        now += every
        state = fold(state, samples, present, now)
    return state, now


def beat(number: float, tokens: dict[tuple[str, str, str], float] | None = None, *endpoints: EndpointHealth) -> Sample:
    return Sample(heartbeat=number, tokens=tokens or {}, endpoints=endpoints)


def served(state: Fold, now: float) -> dict[tuple[str, str], tuple[int, int]]:
    return {(s.pool, s.flavor): (s.input_tokens, s.output_tokens) for s in telemetry_of(state, frozenset(), now).served}


def test_a_first_sample_is_a_baseline_and_a_later_series_begins_at_zero():
    state, now = run({G1: beat(1, {IN: 1000.0})}, {G1: beat(2, {IN: 1010.0, OUT: 7.0})})
    assert served(state, now) == {("a/small", "l4"): (10, 7)}


def test_a_restarted_router_counts_from_zero():
    state, now = run({G1: beat(1, {IN: 1000.0})}, {G1: beat(2, {IN: 30.0})})
    assert served(state, now) == {("a/small", "l4"): (30, 0)}


def test_a_replaced_pod_is_a_new_gateway():
    state, now = run({G1: beat(1, {IN: 1000.0})}, {G1: beat(2, {IN: 1005.0})})
    state = fold(state, {G2: beat(1, {IN: 400.0})}, frozenset({G2}), now + 5)
    assert served(state, now + 5) == {("a/small", "l4"): (5, 0)}


def test_gateways_add_up_and_zero_traffic_is_zero():
    state, now = run({G1: beat(1, {IN: 0.0}), G2: beat(1, {IN: 5.0})}, {G1: beat(2, {IN: 0.0}), G2: beat(2, {IN: 5.0})})
    telemetry = telemetry_of(state, frozenset({G1, G2}), now)
    assert telemetry.fresh
    assert served(state, now) == {("a/small", "l4"): (0, 0)}
    assert telemetry.served[0].window == 5.0


def test_a_series_that_is_absent_once_does_not_count_twice():
    state, now = run({G1: beat(1, {IN: 100.0})}, {G1: beat(2)}, {G1: beat(3, {IN: 104.0})})
    assert served(state, now) == {("a/small", "l4"): (4, 0)}


def test_what_is_older_than_the_window_is_forgotten():
    state, now = run({G1: beat(1, {IN: 0.0})}, {G1: beat(2, {IN: 50.0})})
    later = now + WINDOW_SECONDS
    assert served(state, later) == {("a/small", "l4"): (0, 0)}
    assert not fold(state, {}, frozenset({G1}), later).ring
    assert telemetry_of(state, frozenset(), later).served[0].window == WINDOW_SECONDS


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0])
def test_what_is_no_count_is_dropped(bad):
    state, now = run({G1: beat(1, {IN: 10.0})}, {G1: beat(2, {IN: bad})}, {G1: beat(3, {IN: 12.0})})
    assert served(state, now) == {("a/small", "l4"): (2, 0)}


@given(st.lists(st.one_of(st.floats(), st.floats(min_value=0, max_value=1e9)), max_size=30))
def test_whatever_a_router_says_tokens_are_whole_finite_and_never_negative(values):
    state, now = run(*({G1: beat(n, {IN: v})} for n, v in enumerate(values)))
    for tokens in served(state, now).values():
        assert all(isinstance(t, int) and t >= 0 for t in tokens)


@given(st.lists(st.integers(min_value=0, max_value=10**6), min_size=1, max_size=50), st.integers(min_value=0, max_value=10**9))
def test_a_counter_that_only_grows_adds_up_to_its_growth(growth, start):
    total, rounds = start, [{G1: beat(0, {IN: float(start)})}]
    for n, step in enumerate(growth, 1):
        total += step
        rounds.append({G1: beat(n, {IN: float(total)})})
    state, now = run(*rounds)
    assert served(state, now) == {("a/small", "l4"): (sum(growth), 0)}


@given(st.lists(st.tuples(st.booleans(), st.integers(min_value=0, max_value=1000)), max_size=40))
def test_resets_lose_at_most_what_was_not_scraped(steps):
    value, expected, rounds = 0, 0, [{G1: beat(0, {IN: 0.0})}]
    for n, (reset, step) in enumerate(steps, 1):
        before = value
        value = step if reset else value + step
        expected += value - before if value >= before else value
        rounds.append({G1: beat(n, {IN: float(value)})})
    state, now = run(*rounds)
    assert served(state, now) == {("a/small", "l4"): (expected, 0)}


def test_the_window_is_never_zero():
    state, now = run({G1: beat(1, {IN: 5.0})})
    assert telemetry_of(state, frozenset({G1}), now).served[0].window == 1.0


def test_fresh_needs_every_ready_gateway():
    state, now = run({G1: beat(1)}, {G1: beat(2)})
    assert telemetry_of(state, frozenset({G1}), now).fresh
    assert not telemetry_of(state, frozenset({G1, G2}), now).fresh
    assert not telemetry_of(state, frozenset(), now).fresh
    assert not telemetry_of(state, frozenset({G1}), now + FRESH_SECONDS + 1).fresh


@pytest.mark.parametrize("heartbeat", [2.0, None, math.nan])
def test_a_heartbeat_that_stands_still_is_stale(heartbeat):
    state, now = run({G1: beat(2.0)}, *({G1: Sample(heartbeat=heartbeat)} for _ in range(7)))
    assert not telemetry_of(state, frozenset({G1}), now).fresh


def test_a_heartbeat_set_back_is_still_a_heartbeat():
    state, now = run({G1: beat(1000.0)}, *({G1: beat(float(n))} for n in range(7)))
    assert telemetry_of(state, frozenset({G1}), now).fresh


def test_the_worst_that_a_gateway_says_of_an_endpoint_wins():
    up = EndpointHealth("a/boss", "burst", up=True)
    limited = EndpointHealth("a/boss", "burst", up=False, reason="RateLimited")
    refused = EndpointHealth("a/boss", "burst", up=False, reason="KeyRefused")
    state, now = run({G1: beat(1, None, up, refused), G2: beat(1, None, limited)})
    assert telemetry_of(state, frozenset(), now).endpoints == (refused,)
    state = fold(state, {G1: beat(2, None, up)}, frozenset({G1, G2}), now + 5)
    assert telemetry_of(state, frozenset(), now + 5).endpoints == (limited,)
    state = fold(state, {G1: beat(3, None, up)}, frozenset({G1}), now + 10)
    assert telemetry_of(state, frozenset(), now + 10).endpoints == (up,)
    assert telemetry_of(state, frozenset(), now + 11 + FRESH_SECONDS).endpoints == ()
