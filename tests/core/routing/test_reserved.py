"""Headers that only the gateway may set: all of ours are dropped but two, by expressions that Envoy takes with its default limit."""

from __future__ import annotations

import re

from hypothesis import example, given, strategies as st
from tests.core.routing.test_xds import as_file, run_dir, validate

from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.ir import RoutingWorld, TeamRoute
from modelfleet.core.routing.xds import GatewaySettings, resources

__all__ = ["run_dir"]

OURS = "x-modelfleet-"
KEPT = {f"{OURS}grant", f"{OURS}session"}
LIMIT = 100
"""What Envoy allows an expression to need where nobody says otherwise; nobody does (docs/architecture.md)."""


def matchers() -> list[dict[str, object]]:
    manager = resources(compile_routes(RoutingWorld()), GatewaySettings()).listeners["gateway"]["filter_chains"][0]["filters"][0]["typed_config"]
    early = manager["early_header_mutation_extensions"][0]["typed_config"]
    return [m["remove_on_match"]["key_matcher"] for m in (early.get("value") or early)["mutations"]]


def is_dropped(name: str) -> bool:
    """As Envoy does it: an expression must match the whole name."""
    for matcher in matchers():
        regex, prefix = matcher.get("safe_regex"), matcher.get("prefix")
        if re.fullmatch(regex["regex"], name) if isinstance(regex, dict) else name.startswith(str(prefix)):
            return True
    return False


@given(st.one_of(st.text("grantsesion-c", max_size=9), st.builds("{}{}".format, st.sampled_from(["grant", "session"]), st.text("gs-1"))))
@example("caller")
@example("")
@example("decision")
@example("sessions")
@example("sessio")
@example("grants")
@example("gran")
@example("model-span")
@example("key-refused")
def test_every_name_of_ours_but_two_is_dropped(rest: str) -> None:
    assert is_dropped(OURS + rest) == (OURS + rest not in KEPT)


def test_other_headers_pass() -> None:
    assert not any(is_dropped(name) for name in ("x-app", "x-modelfleet", "authorization", "x-modelfleets-caller"))


def test_every_expression_fits_the_limit_that_envoy_has_by_default(run_dir: str) -> None:
    """A limit one reached is refused, so that the check is one."""
    made = resources(compile_routes(RoutingWorld(teams=(TeamRoute("shop/t", ("shop/t",), 1, "r"),))), GatewaySettings(run_dir=run_dir))

    def under(limit: int) -> str:
        layer = {"name": "limit", "static_layer": {"re2.max_program_size.error_level": limit}}
        return validate(as_file(made, run_dir) | {"layered_runtime": {"layers": [layer]}})

    assert under(LIMIT) == ""
    assert "RE2 program size" in under(20)
