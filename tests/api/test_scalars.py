"""Durations and money: whatever the schema lets in is read exactly, and nothing else is read at all."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, strategies as st
from pydantic import TypeAdapter, ValidationError

from modelfleet.api.v1alpha1.common import Duration, Money, parse_duration, parse_money

money = TypeAdapter(Money)
duration = TypeAdapter(Duration)


def allowed(adapter: TypeAdapter[str], text: str) -> bool:
    try:
        adapter.validate_python(text)
    except ValidationError:
        return False
    return True


@given(st.integers(0, 999_999_999_999_999))
def test_every_micro_dollar_survives_the_way_out_and_back(micro: int) -> None:
    text = f"{micro // 1_000_000}.{micro % 1_000_000:06}"
    assert allowed(money, text)
    assert parse_money(text) == micro


@given(st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,6})?", fullmatch=True))
def test_money_equals_exact_decimal_arithmetic(text: str) -> None:
    assert parse_money(text) == Decimal(text) * 1_000_000


@given(st.text(st.sampled_from("0123456789.-+eE_ $x\n٣"), max_size=12) | st.text(max_size=12))
def test_money_is_read_exactly_when_the_schema_allows_it(text: str) -> None:
    if allowed(money, text):
        assert parse_money(text) >= 0
    else:
        with pytest.raises(ValueError, match="is not an amount of money"):
            parse_money(text)


@given(
    st.lists(st.tuples(st.integers(0, 999), st.sampled_from([("h", 3600), ("m", 60), ("s", 1), ("ms", Decimal("0.001"))])), min_size=1, max_size=3),
)
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, tuple[str, Decimal]]]) -> None:
    text = "".join(f"{number}{unit}" for number, (unit, _) in parts)
    assert allowed(duration, text)
    assert parse_duration(text) == float(sum(number * Decimal(size) for number, (_, size) in parts))


@given(st.text(st.sampled_from("0123456789hms.- d\n"), max_size=12))
def test_a_duration_is_read_exactly_when_its_pattern_allows_it(text: str) -> None:
    if allowed(duration, text):
        assert parse_duration(text) >= 0
    else:
        with pytest.raises(ValueError, match="is not a duration"):
            parse_duration(text)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e3", "1_000", "", ".5", "5.", "9" * 5000])
def test_money_that_python_would_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount of money"):
        parse_money(text)


def test_examples() -> None:
    assert parse_money("6.88") == 6_880_000
    assert parse_duration("1h30m") == 5400
    assert parse_duration("250ms") == 0.25
