"""What is measured of the operator at one size: the first apply, single changes, a restart, rest, and the planner by itself."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import median

from e2e.lab.steps import LabError
from modelfleet.controller.observe import observe_once
from modelfleet.core.memory import NOTHING
from modelfleet.core.reconcile import plan_fleet, replan
from modelfleet.core.world import Defaults, World
from modelfleet.kube.resources import DEPLOYMENTS, MODEL_POOLS

from . import scale_objects as objects
from .figures import Json, calls_per_minute, percentile, summary
from .scale_scene import AGENT, ScaleScene

PER_POOL = 5
"""Writes: two Deployments, two Services and a status."""


async def first_apply(scene: ScaleScene) -> Json:
    """All pools are stored and the operator begins to lead: seconds until the last child, and the last status, is answered."""
    spawned = datetime.now(UTC)
    scene.start_operator()
    await scene.settled(PER_POOL * scene.pools)
    led = scene.led_since()
    writes = scene.operator_writes(led)
    children = [at for what, at in writes if what in ("deployments", "services")]
    first = [at for what, at in writes if what == "modelpools/status"][: scene.pools]
    counts = {what: sum(w == what for w, _ in writes) for what in sorted({w for w, _ in writes})}
    return {
        "children_s": (max(children) - led).total_seconds(),
        "statuses_s": (max(first) - led).total_seconds(),
        "from_process_start_s": (max(first) - spawned).total_seconds(),
        "writes": counts,
    }


async def bare_apply(scene: ScaleScene) -> Json:
    """The same bytes by a bare loop, on the same API server, without the operator."""
    scene.stop_operator()
    await scene.forget_everything()
    await scene.store_pools()
    plan = await scene.the_plan()
    children, statuses = await scene.bare(plan)
    return {"children_s": children, "statuses_s": statuses, "writes": len(plan.children) + scene.pools}


async def changes(scene: ScaleScene, count: int) -> Json:
    """One change at a time, from the API server's answer until a watch shows both Deployments with it. Milliseconds."""
    await scene.settled(0)
    before, cpu = await scene.series(), scene.operator.cpu if scene.operator else 0.0
    _, version = await scene.client.list(DEPLOYMENTS)
    dice, taken = random.Random(7), []
    async with aclosing(scene.client.watch(DEPLOYMENTS, version, seconds=3600, silence=60)) as stream:
        for turn in range(count):
            number, seconds = dice.randrange(scene.pools), 31 + turn
            await scene.client.merge_patch(MODEL_POOLS, objects.pool_namespace(number), objects.pool_name(number), objects.change(seconds))
            began, missing = time.monotonic(), {f"{objects.pool_name(number)}-{flavor}" for flavor in ("first", "second")}
            while missing:
                _, seen = await asyncio.wait_for(anext(stream), 60)
                spec = (seen.get("spec") or {}).get("template", {}).get("spec", {})
                if spec.get("terminationGracePeriodSeconds") == seconds + 30:
                    missing.discard(seen["metadata"]["name"])
            taken.append(1000 * (time.monotonic() - began))
            await asyncio.sleep(dice.uniform(0.1, 0.4))
    after = await scene.series()
    cpu = (scene.operator.cpu if scene.operator else 0.0) - cpu
    return summary(taken) | {"operator_cpu_ms_per_change": 1000 * cpu / count, "cycle_ms": _cycles(before, after)}


def _cycles(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """The mean of each step of a cycle between two looks at the metrics, milliseconds of wall clock, and how many cycles there were."""
    told = {}
    for step in ("observe", "plan", "act"):
        names = [f'modelfleet_operator_cycle_seconds_{part}{{step="{step}"}}' for part in ("sum", "count")]
        seconds, number = (after.get(name, 0.0) - before.get(name, 0.0) for name in names)
        told[step] = 1000 * seconds / number if number else 0.0
        told["cycles"] = number
    return told


async def restart(scene: ScaleScene) -> Json:
    """A clean stop and a start: seconds from the process's start until it has planned with everything in view, and what it wrote in those and the next ones."""
    scene.stop_operator()
    await asyncio.sleep(1)
    began, at = time.monotonic(), datetime.now(UTC)
    scene.start_operator()
    while not await scene.ready():
        if time.monotonic() - began > 120:
            raise LabError(f"the operator is not ready after two minutes; logs in {scene.folder}/logs")
        await asyncio.sleep(0.05)
    seconds = time.monotonic() - began
    await asyncio.sleep(5)
    writes = scene.operator_writes(at)
    return {"seconds": seconds, "writes": len(writes), "of": sorted({what for what, _ in writes})}


async def idle(scene: ScaleScene, settle: float, seconds: float) -> Json:
    """API calls a minute while nothing happens, and the operator's memory after it."""
    await asyncio.sleep(settle)
    began, cpu = datetime.now(UTC), scene.operator.cpu if scene.operator else 0.0
    await asyncio.sleep(seconds)
    calls = calls_per_minute(scene.server.audit_events(), began, datetime.now(UTC), AGENT)
    operator = scene.operator
    return {
        "seconds": seconds,
        "calls": calls,
        "cpu_share": ((operator.cpu if operator else 0.0) - cpu) / seconds,
        "rss_mb": operator.rss * 1.048576 if operator else 0.0,
    }


async def planner(scene: ScaleScene, turns: int) -> Json:
    """The planner by itself, on the world that the API server shows: milliseconds of CPU of a full plan, and of one after a pool or a pod has changed."""
    world = (await observe_once(scene.client, Defaults())).world
    # as in the operator's process (handlers/heap.py): what is there is set aside, so that no full collection falls into a plan
    gc.set_threshold(10_000, *gc.get_threshold()[1:])
    gc.collect()
    gc.freeze()
    full, wall = [], []
    for _ in range(max(3, turns // 4)):
        cpu, began = time.process_time(), time.perf_counter()
        plan_fleet(world)
        full.append(1000 * (time.process_time() - cpu))
        wall.append(1000 * (time.perf_counter() - began))
    _, memory = replan(world, NOTHING)
    gc.freeze()
    some = []
    for turn in range(turns):
        world = _other(world, turn)
        cpu = time.process_time()
        plan, memory = replan(world, memory)
        some.append(1000 * (time.process_time() - cpu))
    if plan != plan_fleet(world):
        raise LabError("an incremental plan is not the full plan of the same world")
    return {"full_ms": median(wall), "full_cpu_ms": median(full), "incremental_cpu_ms": median(some), "incremental_cpu_p99_ms": percentile(some, 0.99)}


def _other(world: World, turn: int) -> World:
    """One thing changed, in turns: a pool wants another number of replicas; a pod is not ready any more."""
    now = world.now + timedelta(seconds=1)
    if turn % 2:
        pods = list(world.pods)
        pods[turn % len(pods)] = replace(pods[turn % len(pods)], ready=not pods[turn % len(pods)].ready)
        return replace(world, pods=tuple(pods), now=now)
    pools = list(world.pools)
    pool = pools[turn % len(pools)]
    spec = pool.spec.model_copy(update={"replicas": 1 + pool.spec.replicas % 2})
    pools[turn % len(pools)] = pool.model_copy(update={"spec": spec, "metadata": pool.metadata.model_copy(update={"generation": pool.metadata.generation + 1})})
    return replace(world, pools=tuple(pools), now=now)
