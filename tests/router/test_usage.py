"""What one finished request adds to which counter, and what it says of remote endpoints."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from google.protobuf import any_pb2, json_format

from modelfleet.core.routing.ir import Price, RemoteCluster, RoutingPlan
from modelfleet.router.health import EndpointHealth
from modelfleet.router.metrics import RouterMetrics
from modelfleet.router.tokens import NAMESPACE
from modelfleet.router.usage import Finished, UsageReceiver, finished_of

FAR = ("shop/boss", "far")
CLUSTER = "remote/shop/boss/far"


class Counting:
    def __init__(self) -> None:
        self.metrics = RouterMetrics()
        self.health = EndpointHealth(self.metrics)
        self.usage = UsageReceiver(self.metrics, self.health)
        remote = RemoteCluster(CLUSTER, *FAR, host="far.example", port=443, tls=True, path_prefix="/v1", upstream_model="x", concurrency=1)
        self.usage.use(RoutingPlan("v", remote_clusters=(remote,), prices={FAR: Price(1_500_000, 6_000_000)}))

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"modelfleet_router_{name}", labels)

    def tokens(self, direction: str, source: str) -> float | None:
        return self.value("usage_tokens_total", pool=FAR[0], flavor=FAR[1], direction=direction, source=source)


def done(**changes: Any) -> Finished:
    given: dict[str, Any] = {
        "decision": "1", "policy": "shop/p", "rule": "r", "served": FAR, "refused_by": None, "cluster": CLUSTER, "code": 200, "attempts": 1,
        "streamed": False, "connected": True, "input_bytes": 400, "output_bytes": 800,
    }  # fmt: skip
    return Finished(**given | changes)


def test_reported_tokens_are_counted_as_reported_at_the_price_of_the_flavor() -> None:
    c = Counting()
    c.usage.count(done(input_tokens=13, output_tokens=4, first_byte=0.2))
    assert (c.tokens("input", "reported"), c.tokens("output", "reported"), c.tokens("input", "estimated")) == (13, 4, None)
    assert c.value("usage_micro_usd_total", pool=FAR[0], flavor=FAR[1]) == 13 * 1.5 + 4 * 6
    assert c.value("requests_total", policy="shop/p", rule="r", pool=FAR[0], flavor=FAR[1], code="200") == 1
    assert c.value("ttft_seconds_count", pool=FAR[0], flavor=FAR[1]) == 1


def test_without_a_report_tokens_are_estimated_by_the_ratio_this_flavor_has_shown() -> None:
    c = Counting()
    c.usage.count(done())
    assert (c.tokens("input", "estimated"), c.tokens("output", "estimated")) == (100, 200)
    for _ in range(200):
        c.usage.count(done(input_tokens=40, output_tokens=100))
    c.usage.count(done())
    assert (c.tokens("input", "estimated"), c.tokens("output", "estimated")) == (100 + 40, 200 + 100)
    c.usage.count(done(streamed=True, output_bytes=2000))
    assert c.tokens("output", "estimated") == 300 + 10


@pytest.mark.parametrize("changes", [{"code": 503}, {"code": 400}, {"served": None}, {"code": 0}])
def test_an_error_costs_nothing(changes: dict[str, Any]) -> None:
    c = Counting()
    c.usage.count(done(input_tokens=5, output_tokens=5) if not changes else done(**changes))
    assert c.tokens("input", "reported") is None
    assert c.tokens("input", "estimated") is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""), ({"code": 429}, "RateLimited"), ({"code": 503, "connected": False}, "Unreachable"), ({"code": 503}, None),
        ({"code": 502, "refused_by": FAR}, "KeyRefused"), ({"refused_by": FAR, "served": ("shop/small", "cpu"), "cluster": "pods/shop/small"}, "KeyRefused"),
        ({"cluster": "pods/shop/small"}, None), ({"refused_by": ("shop/x", "y"), "cluster": "pods/x"}, None),
    ],
)  # fmt: skip
def test_an_outcome_says_whether_an_endpoint_is_up(changes: dict[str, Any], reason: str | None) -> None:
    c = Counting()
    c.usage.count(done(**changes))
    assert c.health.reason(*FAR) == reason


def test_the_gauge_holds_one_word_per_endpoint_and_none_for_one_that_is_gone() -> None:
    c = Counting()

    def gauge() -> list[tuple[str, float]]:
        return [(s.labels["reason"], s.value) for family in c.metrics.registry.collect() for s in family.samples if s.name == "modelfleet_router_endpoint_up"]

    assert gauge() == []
    for reason, value in (("", 1), ("KeyRefused", 0), ("KeyRefused", 0), ("Unreachable", 0), ("", 1)):
        c.health.observe(*FAR, reason)
        assert gauge() == [(reason, value)]
    c.usage.use(RoutingPlan("v"))
    assert gauge() == []
    assert c.health.reason(*FAR) is None


def an_entry(**changes: Any) -> Any:
    given = {
        "common_properties": {
            "upstream_cluster": CLUSTER, "upstream_request_attempt_count": 2, "duration": "1.5s", "time_to_first_downstream_tx_byte": "0.25s",
            "custom_tags": {"served": "shop/boss/far", "policy": "shop/p", "entrypoint": "auto"},
            "metadata": {"filter_metadata": {
                "envoy.filters.http.ext_authz": {"id": "d-1", "policy": "shop/p", "rule": "r"}, "modelfleet.request": {"model": "auto", "stream": True},
                "modelfleet.upstream": {"key_refused": "shop/boss/other"},
            }},
        } | changes,
        "request": {"request_body_bytes": 100}, "response": {"response_code": 200, "response_body_bytes": 900},
    }  # fmt: skip
    return json_format.ParseDict(given, accesslog_pb2.HTTPAccessLogEntry())


def with_usage(entry: Any, raw: bytes) -> Any:
    entry.common_properties.metadata.typed_filter_metadata[NAMESPACE].CopyFrom(any_pb2.Any(value=raw))
    return entry


def test_an_entry_of_envoy_is_read_whole() -> None:
    whole = with_usage(an_entry(), b"\x1a\x02\x08\x0d\x22\x02\x08\x04\x48\x01")
    assert finished_of(whole) == Finished(
        decision="d-1", policy="shop/p", rule="r", served=FAR, refused_by=("shop/boss", "other"), cluster=CLUSTER, code=200, attempts=2, streamed=True,
        connected=True, input_bytes=100, output_bytes=900, input_tokens=13, output_tokens=4, first_byte=0.25, duration=1.5,
    )  # fmt: skip


def test_a_report_about_a_part_of_an_answer_is_no_report() -> None:
    assert finished_of(with_usage(an_entry(), b"\x1a\x02\x08\x0d\x22\x02\x08\x04\x48\x02")).input_tokens is None


@pytest.mark.parametrize("output", [True, None, "9", -5, 1e300, float("inf"), float("nan"), [7]])
def test_a_stream_that_reports_what_no_request_can_have_reports_nothing(output: Any) -> None:
    entry = an_entry()
    entry.common_properties.metadata.filter_metadata["modelfleet.usage"].update({"input": 3, "output": output})
    assert finished_of(entry).output_tokens is None
    entry.common_properties.metadata.filter_metadata["modelfleet.usage"].update({"input": output, "output": 3})
    assert (finished_of(entry).input_tokens, finished_of(entry).output_tokens) == (0, 3)


def test_an_undecided_request_keeps_the_policy_of_its_route() -> None:
    read = finished_of(an_entry(metadata={}, custom_tags={"served": "", "policy": "shop/p"}, response_flags={"upstream_connection_failure": True}))
    assert (read.decision, read.policy, read.rule, read.served, read.connected, read.streamed) == ("", "shop/p", "", None, False, False)


def test_without_a_decision_policy_and_rule_are_the_routes() -> None:
    entry = accesslog_pb2.HTTPAccessLogEntry()
    entry.common_properties.custom_tags.update({"policy": "shop/p", "rule": "canary", "served": "shop/boss/far"})
    assert (finished_of(entry).policy, finished_of(entry).rule) == ("shop/p", "canary")
    decided = entry.common_properties.metadata.filter_metadata["envoy.filters.http.ext_authz"]
    decided.update({"policy": "shop/p", "rule": "short"})
    assert finished_of(entry).rule == "short"
    entry.common_properties.custom_tags["rule"] = "-"
    decided.update({"rule": ""})
    assert finished_of(entry).rule == ""
