"""Money: exact inside, half-even and short outside, absent where it is not known."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, strategies as st
from tests.support.builders import a_class, a_pool

from modelfleet.api.v1alpha1.common import parse_money
from modelfleet.core.economics.money import format_dollars, format_exact
from modelfleet.core.economics.price import TokenPrice, cost_per_hour, full_load_price, list_price, live_per_million
from modelfleet.core.world import Served


@pytest.mark.parametrize(
    ("micro", "text"),
    [
        (0, "0.00"),
        (6_880_000, "6.88"),
        (830_000, "0.83"),
        (100_000, "0.10"),
        (50_000, "0.05"),
        (12_345, "0.012"),
        (999, "0.001"),
        (1, "0.000001"),
        (Fraction(1, 3), "0.00"),
        (1_005_000, "1.00"),
        (1_015_000, "1.02"),
        (12_345_678_901, "12345.68"),
    ],
)
def test_how_a_person_sees_it(micro: int | Fraction, text: str) -> None:
    assert format_dollars(micro) == text


@given(st.integers(0, 10**15 - 1))
def test_a_list_price_survives_the_way_out_and_in(micro: int) -> None:
    assert parse_money(format_exact(micro)) == micro


@given(st.integers(1, 10**12))
def test_rounding_is_off_by_half_a_digit_at_most(micro: int) -> None:
    text = format_dollars(micro)
    last = Fraction(1, 10 ** len(text.partition(".")[2])) * 1_000_000
    assert abs(parse_money(text) - micro) * 2 <= last


def test_a_replica_costs_what_it_asks_for_and_nothing_is_invented() -> None:
    assert cost_per_hour(2, a_class("c", "6.88")) == 13_760_000
    assert cost_per_hour(2, a_class("c", None)) is None
    assert cost_per_hour(2, None) is None
    cores = a_class("c", "0.05", resource="cpu")
    assert (cost_per_hour(8000, cores), cost_per_hour(500, cores)) == (400_000, 25_000)


def test_full_load_price_and_its_split() -> None:
    price = full_load_price(6_880_000, 2500)
    assert price is not None
    assert format_dollars(price.output_per_million) == "0.76"
    assert price.input_per_million * 10 == price.output_per_million
    assert full_load_price(None, 2500) is None
    assert full_load_price(6_880_000, None) is None


def test_an_endpoint_costs_what_its_list_says() -> None:
    (remote,) = a_pool("p").or_endpoint().build().spec.flavors
    assert list_price(remote) == TokenPrice(Fraction(200_000), Fraction(600_000))


def test_live_price_counts_pods_by_time_and_endpoints_by_token() -> None:
    pods, remote = Served("p", "h100", 0, 1_000_000, 600), Served("p", "remote", 1_000_000, 0, 600)
    price = TokenPrice(Fraction(200_000), Fraction(600_000))
    # 6.88 an hour for a sixth of an hour, and 0.20 for a million tokens at the endpoint, over two million tokens
    assert live_per_million(6_880_000, [(pods, None), (remote, price)]) == (Fraction(6_880_000, 6) + 200_000) / 2
    assert live_per_million(6_880_000, []) is None
    assert live_per_million(6_880_000, [(Served("p", "h100", 0, 0, 600), None)]) is None
