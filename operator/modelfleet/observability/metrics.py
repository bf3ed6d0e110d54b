"""Names and labels of every metric we expose: what the router writes, the operator reads by the same constants.

``pool`` and ``policy`` label values are ``<namespace>/<name>``. Label values come from objects, never from requests.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "COMPILE_ERRORS",
    "CYCLES",
    "CYCLE_SECONDS",
    "DECIDER_SECONDS",
    "ENDPOINT_UP",
    "HEARTBEAT",
    "LEADER",
    "LOOP_LAG",
    "PLAN_ERRORS",
    "REQUESTS",
    "TEAM_CALLS",
    "TEAM_COMPILE_ERRORS",
    "TEAM_COST",
    "TEAM_OVERRUNS",
    "TEAM_QUEUE_DEPTH",
    "TEAM_RESERVED",
    "TEAM_RESUMED",
    "TEAM_RUNS",
    "TEAM_RUN_SECONDS",
    "TEAM_TOKENS",
    "TTFT_SECONDS",
    "USAGE_TOKENS",
    "USAGE_USD",
    "WRITES",
    "XDS_ACKED",
    "XDS_REJECTED",
]

REQUESTS: Final = "modelfleet_router_requests_total"
"""counter {policy, rule, pool, flavor, code}: finished requests, from access logs."""
USAGE_TOKENS: Final = "modelfleet_router_usage_tokens_total"
"""counter {pool, flavor, direction=input|output, source=reported|estimated}."""
USAGE_USD: Final = "modelfleet_router_usage_micro_usd_total"
"""counter {pool, flavor}: micro-dollars at the price in the pool's status when the request ended."""
TTFT_SECONDS: Final = "modelfleet_router_ttft_seconds"
ENDPOINT_UP: Final = "modelfleet_router_endpoint_up"
"""gauge {pool, flavor, reason}: 1 up with reason="", 0 down with the reason; absent: not observed yet."""
HEARTBEAT: Final = "modelfleet_router_heartbeat_seconds"
"""gauge: Unix time of the sample; tells zero traffic from no telemetry."""
DECIDER_SECONDS: Final = "modelfleet_router_decision_seconds"
XDS_ACKED: Final = "modelfleet_router_xds_acked_total"
XDS_REJECTED: Final = "modelfleet_router_xds_rejected_total"
COMPILE_ERRORS: Final = "modelfleet_router_compile_errors_total"
"""counter: compilations that raised; Envoy kept what it had."""

CYCLES: Final = "modelfleet_operator_cycles_total"
CYCLE_SECONDS: Final = "modelfleet_operator_cycle_seconds"
WRITES: Final = "modelfleet_operator_writes_total"
"""counter {verb, kind}: calls that asked the API server to change something."""
PLAN_ERRORS: Final = "modelfleet_operator_errors_total"
"""counter {step=observe|plan|act|object}: what failed and will be tried again."""
LOOP_LAG: Final = "modelfleet_operator_loop_lag_seconds"
"""gauge: how late the event loop woke from its last nap."""
LEADER: Final = "modelfleet_operator_leader"
"""gauge: 1 while this process holds the Lease."""

TEAM_RUNS: Final = "modelfleet_team_runs_total"
"""counter {team, state, stop_reason}: finished runs; a cut-off is never counted as Succeeded."""
TEAM_RUN_SECONDS: Final = "modelfleet_team_run_seconds"
TEAM_COST: Final = "modelfleet_team_cost_micro_usd_total"
"""counter {team, role, target}: micro-dollars charged to runs, cancelled and failed calls included."""
TEAM_TOKENS: Final = "modelfleet_team_tokens_total"
"""counter {team, role, direction=input|output}."""
TEAM_CALLS: Final = "modelfleet_team_calls_total"
"""counter {team, role, outcome}: attempts at model calls; Succeeded, Cancelled or an error class."""
TEAM_RESERVED: Final = "modelfleet_team_reservation_open_micro_usd"
"""gauge {team}: reserved for open calls; zero when nothing runs."""
TEAM_OVERRUNS: Final = "modelfleet_team_overrun_total"
"""counter {team}: calls whose provider reported more than was reserved."""
TEAM_QUEUE_DEPTH: Final = "modelfleet_team_queue_depth"
TEAM_RESUMED: Final = "modelfleet_team_resumed_total"
"""counter {team}: runs taken up again from the journal after a restart."""
TEAM_COMPILE_ERRORS: Final = "modelfleet_team_compile_errors_total"
"""counter: compilations that raised; the runtime kept the plans it had."""
