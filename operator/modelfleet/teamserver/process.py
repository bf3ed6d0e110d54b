"""The team runtime's process: what it watches, what it runs, what ends it.

Watches teams, pools and policies; compiles them on change; answers OpenAI requests; says on each team whether it can be called. SIGTERM ends it: not ready, no
new runs, those going on get up to a minute, the rest stay in the journal for whoever starts next. A task that ends by itself ends the process with 1. Losing
the API server ends nothing; losing the journal or the grant keys makes it not ready until they are back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Coroutine
from typing import Any, Final

from starlette.applications import Starlette

from modelfleet.core.teams.ir import TeamsPlan
from modelfleet.kube.changes import Changes, Window
from modelfleet.kube.client import Client
from modelfleet.observability.logging import configure
from modelfleet.serving import Serving

from .engine import Engine
from .front_openai import Front
from .grant_keys import GrantKeys
from .http import http_app
from .joins import Joins
from .journal.protocol import Journal, JournalError
from .journal.sqlite import SqliteJournal
from .metrics import TeamMetrics
from .report import Reporter
from .settings import TeamsSettings, read_settings
from .watches import Watches

__all__ = ["TeamRuntime", "run_teams"]

_log = logging.getLogger(__name__)
_WINDOW: Final = Window(idle=0.02, cap=0.2)
_PULSE: Final = 2.0
_PRUNE_EVERY: Final = 3600.0
_LAST_BYTES: Final = 3
_KEEP_ALIVE: Final = 3900
"""Longer than Envoy keeps an idle connection: if this side closed it first, a request that is just leaving would be lost, and nobody repeats those of teams."""


class TeamRuntime:
    """One runtime over one journal."""

    def __init__(self, settings: TeamsSettings, client: Client, journal: Journal) -> None:
        self.settings = settings
        self.journal = journal
        self.metrics = TeamMetrics()
        self.keys = GrantKeys(settings.grant_keys)
        self.changes = Changes(_WINDOW)
        self.engine = Engine(journal, settings.gateway_url, self.keys, metrics=self.metrics)
        self.watches = Watches(client, settings.namespaces, self.changes.add, self.engine.team_deleted)
        self.reporter = Reporter(client, lambda: self.watches.teams)
        self.plan = TeamsPlan()
        self.leaving = False
        self._compiled = False
        self._trouble = ""
        self._front = Front(self.engine, Joins(self.engine, journal), lambda: self.plan, self.why_not_ready, max_body_bytes=settings.max_body_bytes)

    async def run(self, stop: asyncio.Event) -> int:
        """Serve until ``stop`` is set; the exit code."""
        app = http_app(self._front.routes(), self.metrics.registry, ready=self.probe, alive=lambda: True)
        server = self._server(app)
        await self.engine.start()
        work: list[Coroutine[Any, Any, Any]] = [self.watches.run(), self._follow(), self.reporter.run(), self._pulse(), self._prune(), stop.wait()]
        tasks = [asyncio.create_task(item) for item in work]
        serving = asyncio.create_task(server.run_until_told())
        done, _ = await asyncio.wait([*tasks, serving], return_when=asyncio.FIRST_COMPLETED)
        failed = [task for task in done if task is not tasks[-1]]
        for task in failed:
            _log.error("a task of the team runtime has ended: %s", task.exception() or "without an error")
        self.leaving = self._front.draining = True
        await self.engine.drain(0.0 if failed else self.settings.drain)
        server.should_exit = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, serving, return_exceptions=True)
        return 1 if failed else 0

    def _server(self, app: Starlette) -> Serving:
        place = self.settings.http_host, self.settings.http_port
        return Serving(app, *place, "MODELFLEET_TEAMS_PORT", timeout_keep_alive=_KEEP_ALIVE, timeout_graceful_shutdown=_LAST_BYTES)

    def why_not_ready(self) -> str | None:
        """Why no run can start here now, in words; None when it can."""
        if self.leaving:
            return "this process is leaving"
        if not self._compiled:
            return "teams, pools and policies were not all listed yet"
        return self._why_unavailable() or None

    async def probe(self) -> str | None:
        """``why_not_ready`` after a look at the journal, which a closed door would never see heal."""
        await self.journal.probe(time.time())
        return self.why_not_ready()

    def _why_unavailable(self) -> str:
        if not self.journal.healthy:
            return f"the journal takes no rows: {self.journal.reason}"
        return "" if self.keys() else f"there is no grant key in {self.settings.grant_keys}"

    async def _follow(self) -> None:
        """Compile on change; the first time when every watch has listed."""
        await self.watches.synced()
        while True:
            self._compile()
            await self.changes.wait()

    def _compile(self) -> None:
        """Objects that cannot be compiled leave the plans as they are, until the next change."""
        try:
            plan = self.watches.compile()
        except Exception:  # noqa: BLE001 - counted and logged; one bad object must not end the runs of all other teams
            self.metrics.compile_errors.inc()
            _log.exception("the present objects cannot be compiled: the plans stay as they are")
            return
        if _revisions(plan) != _revisions(self.plan) or not self._compiled:
            _log.info("teams: %s", ", ".join(f"{key} {revision}" for key, revision in sorted(_revisions(plan).items())) or "none")
        self.plan = plan
        self._compiled = True
        self.engine.keep_teams(self.watches.teams)
        self._tell()

    def _tell(self) -> None:
        self.reporter.tell({key: team.generation for key, team in self.plan.teams.items()}, self._trouble)

    async def _pulse(self) -> None:
        """Notices that the journal or the keys went or came back."""
        while True:
            await asyncio.sleep(_PULSE)
            await self.journal.probe(time.time())
            await self.engine.pay_debts()
            if self._compiled:
                self.engine.keep_teams(self.watches.teams)
            trouble = self._why_unavailable()
            if trouble != self._trouble:
                self._trouble = trouble
                _log.log(logging.WARNING if trouble else logging.INFO, "%s", trouble or "runs can start again")
                if self._compiled:
                    self._tell()

    async def _prune(self) -> None:
        while True:
            try:
                gone = await self.journal.prune(time.time())
                if gone:
                    _log.info("the journal has forgotten %d ended runs", gone)
            except JournalError as error:
                _log.warning("the journal cannot be pruned, trying again in an hour: %s", error)
            await asyncio.sleep(_PRUNE_EVERY)


def _revisions(plan: TeamsPlan) -> dict[str, str]:
    return {key: team.revision for key, team in plan.teams.items()}


def run_teams() -> int:
    """Run the team runtime until SIGTERM or SIGINT; the exit code."""
    settings = read_settings(os.environ)
    configure(settings.log_level)
    return asyncio.run(_run(settings))


async def _run(settings: TeamsSettings) -> int:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    client = await Client.connect("teams", settings.kubeconfig)
    try:
        journal = await SqliteJournal.open(settings.journal)
        try:
            return await TeamRuntime(settings, client, journal).run(stop)
        finally:
            await journal.close()
    finally:
        await client.close()
