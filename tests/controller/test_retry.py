"""Backoff: grows, is capped, is forgotten on success."""

from __future__ import annotations

from hypothesis import given, strategies as st

from modelfleet.controller.retry import Backoff, Retries


@given(st.integers(min_value=1, max_value=10**6), st.text())
def test_backoff_is_bounded_whatever_happens(failures, key):
    backoff = Backoff(first=1.0, factor=2.0, most=60.0)
    assert 0.8 <= backoff.seconds(failures, key) <= 60.0
    assert backoff.seconds(failures + 1, key) >= backoff.seconds(failures, key)


def test_keys_are_spread():
    assert len({Backoff().seconds(3, f"ModelPool:a/{n}") for n in range(20)}) > 15


def test_a_key_waits_longer_each_time_and_is_forgotten_when_it_succeeds():
    retries = Retries(Backoff(first=1.0))
    first = retries.failed("a", now=0.0)
    assert retries.waiting(0.0) == {"a"}
    assert retries.next_due(0.0) == first
    assert retries.waiting(first) == frozenset()
    second = retries.failed("a", now=first)
    assert second > first
    retries.settle([], tried_at=first + second)
    assert retries.known() == frozenset()
    assert retries.next_due(0.0) is None


def test_a_key_that_was_skipped_is_remembered():
    retries = Retries()
    retries.failed("a", now=0.0)
    retries.settle([], tried_at=0.1)
    assert retries.known() == {"a"}


def test_forgiven_is_forgotten():
    retries = Retries()
    retries.failed("a", now=0.0)
    retries.forgive(["a", "never heard of"])
    assert retries.waiting(0.0) == frozenset()


def test_a_server_that_asks_for_patience_gets_it():
    assert Retries().failed("a", now=0.0, at_least=120.0) == 120.0
