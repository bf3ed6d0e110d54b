"""The commands that look at a fleet: top, plan, explain pool. They read, call the operator's own functions and print; they write nothing.

Each table has a JSON twin made of the same rows.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from modelfleet.api.parse import InvalidObject, parse
from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.controller.dry_run import changes_of
from modelfleet.controller.observe import observe_once
from modelfleet.core.explain_pool import explain_pool as sentences
from modelfleet.core.reconcile import plan_fleet
from modelfleet.core.render.labels import COMPONENT
from modelfleet.core.world import Defaults
from modelfleet.errors import ApiError, NotFound, Stalled
from modelfleet.kube.client import Client
from modelfleet.kube.resources import DEPLOYMENTS, MODEL_POOLS
from modelfleet.settings import operator_options

__all__ = ["explain_pool", "manifests", "plan", "print_json", "top", "with_client"]

T = TypeVar("T")
_FIGURES = ("model", "ready", "flavors", "tokensPerSecond", "costPerHour", "perMillionTokens", "reason", "why")
_WIDE = 140
"""Columns of a terminal that has room for the last change; `explain pool` tells it on any."""
Row = Mapping[str, Any]


def top(kubeconfig: Path | None, context: str | None, namespace: str | None, *, interval: float | None, as_json: bool) -> None:
    """Print the pools' table; with ``interval`` (seconds) again and again until interrupted."""

    def look() -> list[Row]:
        return with_client(kubeconfig, context, lambda client: _pool_rows(client, namespace))

    if as_json:
        print_json(look())
        return
    if interval is None:
        Console().print(_pool_table(look()))
        return
    try:
        with Live(_pool_table(look()), auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                try:
                    live.update(_pool_table(look()), refresh=True)
                except ApiError as error:
                    live.console.print(f"{error.message}; trying again", soft_wrap=True, markup=False)
    except KeyboardInterrupt:
        return


def plan(kubeconfig: Path | None, context: str | None, files: Iterable[Path], *, as_json: bool) -> None:
    """Print what the operator would change, with ``files`` laid over the cluster."""
    overlay = [o for f in files for o in manifests(f)]

    async def look(client: Client) -> tuple[list[Row], list[str]]:
        seen = await observe_once(client, await _installed_defaults(client), overlay)
        wanted = plan_fleet(seen.world)
        told = [f"{e.namespace}/{e.name}: {e.message}" for e in wanted.events]
        return [asdict(change) for change in changes_of(wanted, seen.mirror)], told

    changes, told = with_client(kubeconfig, context, look)
    if as_json:
        print_json({"changes": changes, "events": told})
        return
    console = Console()
    if not changes:
        console.print("nothing would change")
    else:
        table = Table("ACTION", "KIND", "OBJECT", "FIELDS")
        for c in changes:
            table.add_row(c["action"], c["kind"], "/".join(p for p in (c["namespace"], c["name"]) if p), "\n".join(c["fields"]))
        console.print(table)
    for line in told:
        console.print(line, soft_wrap=True, markup=False)


def explain_pool(kubeconfig: Path | None, context: str | None, pool: str, *, as_json: bool) -> None:
    """Print why ``pool`` (``<namespace>/<name>``) runs where it runs. Raises Stalled when there is no such pool."""
    if pool.count("/") != 1 or not all(pool.split("/")):
        raise Stalled("BadName", f"{pool!r}: write <namespace>/<name>")

    namespace, name = pool.split("/")
    try:
        raw = with_client(kubeconfig, context, lambda client: client.get(MODEL_POOLS, namespace, name))
    except NotFound as error:
        raise Stalled("PoolNotFound", f"there is no ModelPool {pool}; `modelfleet top` lists those that exist") from error
    parsed = parse(ModelPool, raw)
    if isinstance(parsed, InvalidObject):
        raise Stalled("InvalidSpec", f"ModelPool {pool}: {'; '.join(parsed.errors)}")
    lines = sentences(parsed)
    if as_json:
        print_json({"pool": pool, "lines": lines})
        return
    console = Console(highlight=False)
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def with_client(kubeconfig: Path | None, context: str | None, use: Callable[[Client], Awaitable[T]]) -> T:
    """What ``use`` gives, with a client of the cluster that is closed afterwards."""

    async def run() -> T:
        client = await Client.connect("cli", kubeconfig, context=context)
        try:
            return await use(client)
        finally:
            await client.close()

    return asyncio.run(run())


async def _installed_defaults(client: Client) -> Defaults:
    """The defaults of the operator installed here, read from its Deployment; without one, those of this environment."""
    operators, _ = await client.list(DEPLOYMENTS, label_selector=f"{COMPONENT}=operator,app.kubernetes.io/part-of=modelfleet")
    for deployment in operators:
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            environment = {e["name"]: e["value"] for e in container.get("env") or () if "value" in e}
            return operator_options(environment).defaults
    return operator_options().defaults


async def _pool_rows(client: Client, namespace: str | None) -> list[Row]:
    items, _ = await client.list(MODEL_POOLS, namespace)
    rows = [_pool_row(parse(ModelPool, raw)) for raw in items]
    return sorted(rows, key=lambda row: str(row["pool"]))


def _pool_row(pool: ModelPool | InvalidObject) -> Row:
    if isinstance(pool, InvalidObject):
        return {"pool": pool.key} | dict.fromkeys(_FIGURES) | {"reason": "InvalidSpec", "why": "; ".join(pool.errors)}
    status = pool.status
    return {
        "pool": pool.key,
        "model": pool.spec.model.name,
        "ready": status.ready,
        "flavors": status.flavor_summary,
        "tokensPerSecond": status.tokens_per_second,
        "costPerHour": status.cost.per_hour if status.cost else None,
        "perMillionTokens": status.cost.per_million_tokens.live if status.cost else None,
        "reason": status.decision_reason,
        "why": status.last_decision.summary if status.last_decision else None,
    }


def _pool_table(rows: Iterable[Row]) -> Table:
    wide = Console().width >= _WIDE
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("POOL", "READY", "FLAVORS", "TOK/S", "$/H", "$/1M", "REASON"):
        table.add_column(name, no_wrap=True)
    if wide:
        table.add_column("LAST CHANGE")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for name, value in row.items() if name != "model" and (wide or name != "why")))
    return table


def manifests(path: Path) -> list[Mapping[str, Any]]:
    """Objects of our kinds in a file, or in the YAML files of a folder. Raises Stalled."""
    found = sorted(path.glob("*.y*ml")) if path.is_dir() else [path]
    try:
        objects = [o for f in found for o in yaml.safe_load_all(f.read_text(encoding="utf-8")) if o]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Stalled("UnreadableManifest", f"{path}: {error}") from error
    if not all(isinstance(o, dict) and "kind" in o for o in objects):
        raise Stalled("UnreadableManifest", f"{path}: every document must be an object with a kind")
    return [o for o in objects if str(o.get("apiVersion", "")).startswith("modelfleet.dev/")]


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    json.dump(value, sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")
