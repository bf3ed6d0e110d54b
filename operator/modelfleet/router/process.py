"""The router's process: what it watches, what it runs, what ends it.

Watches pools, policies, endpoint slices and named Secrets; compiles on change (one batch window of 20 ms) into its own Envoy; answers Checks,
counts access logs, probes remote endpoints, writes its entry into policies' status. SIGTERM ends it: not ready, drain, stop. A task that ends by
itself ends the process with 1. Losing the API server or Envoy ends nothing.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio

from modelfleet.core.routing.compile import compile_routes
from modelfleet.core.routing.ir import PolicyPlan, RoutingPlan, SecretRef, TeamRoute
from modelfleet.core.routing.xds import GatewaySettings
from modelfleet.kube.changes import Changes, Window
from modelfleet.kube.client import Client
from modelfleet.kube.resources import AGENT_TEAMS
from modelfleet.observability.logging import configure
from modelfleet.serving import Serving

from .ads import AdsServer
from .authz import Decider
from .grants import GrantReader
from .health import EndpointHealth, Prober
from .http import http_app
from .metrics import RouterMetrics
from .report import Reporter, Running
from .settings import RouterSettings, read_settings
from .slices import with_own_names
from .usage import UsageReceiver
from .watches import Watches

__all__ = ["Router", "run_router"]

_log = logging.getLogger(__name__)
_WINDOW = Window(idle=0.02, cap=0.2)


class Router:
    """One router beside one Envoy."""

    def __init__(self, settings: RouterSettings, client: Client) -> None:
        self.settings = settings
        self.metrics = RouterMetrics()
        self.decider = Decider(self.metrics.decisions.observe, GrantReader(settings.grant_keys))
        self.changes = Changes(_WINDOW)
        self.watches = Watches(client, settings.namespaces, self.changes.add, settings.teams_namespace)
        gateway = GatewaySettings(
            run_dir=settings.run_dir,
            port=settings.envoy_port,
            max_body_bytes=settings.max_body_bytes,
            decide_timeout=settings.decide_timeout,
            ca_file=settings.ca_file,
        )
        self.ads = AdsServer(gateway, on_change=self._acknowledged)
        self.health = EndpointHealth(self.metrics, lambda: self.changes.add("egress"))
        self.usage = UsageReceiver(self.metrics, self.health)
        self.prober = Prober(self.health, settings.ca_file, settings.egress)
        self.reporter = Reporter(client, settings.pod, lambda: self.watches.policies)
        self.team_reporter = Reporter(client, settings.pod, lambda: self.watches.teams, resource=AGENT_TEAMS)
        self.leaving = False
        self._plan = RoutingPlan(version="")
        self._pushed: tuple[RoutingPlan, Mapping[SecretRef, tuple[str, bytes]]] | None = None
        self._missing: Mapping[str, tuple[str, ...]] = {}
        self._acked: Mapping[str, str] = {}
        self._refusals = 0

    async def run(self, stop: asyncio.Event) -> int:
        """Serve until ``stop`` is set; the exit code."""
        authz = await self._start_servers()
        server = Serving(self._http(), self.settings.http_host, self.settings.http_port, "MODELFLEET_HTTP_PORT")
        reports = (self.reporter.run(), self.team_reporter.run())
        work: list[Coroutine[Any, Any, Any]] = [self.watches.run(), self._follow(), *reports, self.prober.run(), server.run_until_told(), stop.wait()]
        tasks = [asyncio.create_task(item) for item in work]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in done if task is not tasks[-1]]
        for task in failed:
            _log.error("a task of the router has ended: %s", task.exception() or "without an error")
        self.leaving = True
        if not failed:
            await asyncio.sleep(self.settings.drain)
        server.should_exit = True
        await authz.stop(grace=1.0)
        await self.ads.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return 1 if failed else 0

    async def _start_servers(self) -> grpc.aio.Server:
        run_dir = Path(self.settings.run_dir)
        await self.ads.start(str(run_dir / "ads.sock"), self.usage.add_to)
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", self.settings.max_body_bytes + 1024 * 1024)])
        self.decider.add_to(server)
        path = run_dir / "authz.sock"
        path.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        path.chmod(0o660)
        return server

    def _http(self) -> Any:
        return http_app(self.decider, self.metrics.registry, ready=lambda: self.ads.ready and not self.leaving, alive=lambda: not self.leaving)

    async def _follow(self) -> None:
        """Compile on change. The first push waits for every watch, so that a restart never empties an Envoy."""
        await self.watches.synced()
        await self._compile()
        gc.collect()
        gc.freeze()
        while True:
            await self.changes.wait()
            await self._compile()

    async def _compile(self) -> None:
        """Objects that cannot be compiled or written as xDS leave what Envoy has as it is, until the next change."""
        try:
            await self._compile_once()
        except Exception:  # noqa: BLE001 - counted and logged; one bad object must not end the decider of all others
            self.metrics.compile_errors.inc()
            _log.exception("the present objects cannot be compiled: Envoy keeps what it has")

    async def _compile_once(self) -> None:
        world, secrets, self._missing = await self.watches.observe()
        # in a thread: hundreds of policies take longer than a decision may, and none is to wait for them
        plan = await asyncio.to_thread(compile_routes, replace(world, egress=self.settings.egress, barred=self.health.barred()))
        if self._pushed != (plan, secrets):
            self._plan, self._pushed = plan, (plan, secrets)
            self.usage.use(plan)
            self.prober.watch((*plan.remote_clusters, *plan.dropped), secrets)
            await self.ads.publish(plan, secrets)
            clusters = len(plan.pod_clusters) + len(plan.remote_clusters)
            _log.info("plan %s: %d policies and targets, %d teams, %d clusters", plan.version, len(plan.policies), len(plan.teams), clusters)
        self._tell()

    def _acknowledged(self) -> None:
        """Envoy took or refused something, came or went."""
        acked = dict(self.ads.acked)
        if acked and acked != self._acked:
            self.metrics.xds_acked.inc()
            self._acked = acked
        self.metrics.xds_rejected.inc(self.ads.refusals - self._refusals)
        self._refusals = self.ads.refusals
        self._tell()

    def _tell(self) -> None:
        """The decider may name only what Envoy runs; status says what that is."""
        running = self.ads.running
        now = [p if running[p.key].version == p.version else running[p.key] for p in self._plan.policies if p.key in running]
        named = with_own_names(self._plan, [*now, *self.ads.running_teams.values()])
        self.decider.use(replace(self._plan, policies=tuple(p for p in named if isinstance(p, PolicyPlan))))
        if self.ads.ready:
            self._report(running)

    def _report(self, running: Mapping[str, PolicyPlan]) -> None:
        """A team runs where the routes of its roles' calls do too, those that can be made."""
        acked, rejected, teams = self.ads.acked, self.ads.rejected, self.ads.running_teams
        planned = {p.key for p in self._plan.policies}

        def of(key: str, now: PolicyPlan | TeamRoute | None, needs: Iterable[str] = ()) -> Running:
            parts = (key, *(need for need in needs if need in planned))
            runs = now is not None and all(part in acked for part in parts)
            return Running(
                generation=now.generation if now is not None and runs else 0,
                version=acked[key] if runs else "",
                rejected=next((rejected[part] for part in parts if part in rejected), None),
                missing=self._missing.get(key, ()),
            )

        self.reporter.tell({p.key: of(p.key, running.get(p.key)) for p in self._plan.policies if not p.granted})
        self.team_reporter.tell({t.team: of(t.key, teams.get(t.key), t.targets) for t in self._plan.teams})


def run_router() -> int:
    """Run the router until SIGTERM or SIGINT; the exit code."""
    settings = read_settings(os.environ)
    configure(settings.log_level)
    return asyncio.run(_run(settings))


async def _run(settings: RouterSettings) -> int:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    client = await Client.connect("router", settings.kubeconfig)
    try:
        return await Router(settings, client).run(stop)
    finally:
        await client.close()
