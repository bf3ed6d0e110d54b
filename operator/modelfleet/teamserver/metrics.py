"""The team runtime's series under the names of ``observability/metrics.py``, in a registry of their own so that a process may hold several.

Decided here: what is counted when. Labels come from objects (teams, roles, targets) and from closed lists (states, outcomes), never from requests.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from modelfleet.observability import metrics as names

__all__ = ["TeamMetrics"]

_RUNS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)


class TeamMetrics:
    """Every series of a team runtime. ``team`` is ``<namespace>/<name>``; money in micro-dollars."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._runs = Counter(names.TEAM_RUNS, "Finished runs.", ["team", "state", "stop_reason"], registry=self.registry)
        self._seconds = Histogram(names.TEAM_RUN_SECONDS, "Seconds from a run's start to its end.", ["team"], buckets=_RUNS, registry=self.registry)
        self._cost = Counter(names.TEAM_COST, "Micro-dollars charged.", ["team", "role", "target"], registry=self.registry)
        self._tokens = Counter(names.TEAM_TOKENS, "Tokens charged.", ["team", "role", "direction"], registry=self.registry)
        self._calls = Counter(names.TEAM_CALLS, "Attempts at model calls, by how they ended.", ["team", "role", "outcome"], registry=self.registry)
        self._reserved = Gauge(names.TEAM_RESERVED, "Micro-dollars reserved for calls that are open.", ["team"], registry=self.registry)
        self._overruns = Counter(names.TEAM_OVERRUNS, "Calls that reported more than they had reserved.", ["team"], registry=self.registry)
        self._queue = Gauge(names.TEAM_QUEUE_DEPTH, "Runs that wait for a place.", ["team"], registry=self.registry)
        self._resumed = Counter(names.TEAM_RESUMED, "Runs taken up again after a restart.", ["team"], registry=self.registry)
        self.compile_errors = Counter(names.TEAM_COMPILE_ERRORS, "Compilations that failed and changed nothing.", registry=self.registry)

    def run_finished(self, team: str, state: str, stop_reason: str, seconds: float) -> None:
        """A run has ended; ``seconds`` since it was accepted."""
        self._runs.labels(team, state, stop_reason).inc()
        self._seconds.labels(team).observe(seconds)

    def call_settled(self, team: str, role: str, target: str, outcome: str, *, cost_micro_usd: int, input_tokens: int, output_tokens: int) -> None:
        """One attempt at a call was charged. ``target``: ``pool:<ns>/<name>`` or ``policy:...``; ``outcome``: Succeeded, Cancelled or an error class."""
        self._calls.labels(team, role, outcome).inc()
        self._cost.labels(team, role, target).inc(cost_micro_usd)
        self._tokens.labels(team, role, "input").inc(input_tokens)
        self._tokens.labels(team, role, "output").inc(output_tokens)

    def reserved(self, team: str, micro_usd: int) -> None:
        """A reservation was made (positive), or settled or released (negative)."""
        self._reserved.labels(team).inc(micro_usd)

    def overrun(self, team: str) -> None:
        """A provider reported more than the bound of its call."""
        self._overruns.labels(team).inc()

    def queue_depth(self, team: str, depth: int) -> None:
        """Runs of a team that wait now."""
        self._queue.labels(team).set(depth)

    def resumed(self, team: str) -> None:
        """A run was taken up again from the journal."""
        self._resumed.labels(team).inc()
