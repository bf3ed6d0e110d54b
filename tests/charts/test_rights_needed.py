"""Each right of the chart is needed, and no other is: the processes run with all of them, and each is taken away and missed.

Rights to list and to watch are taken together before a start, since a process asks for them all at once; every other is taken by itself from the running
process, which is then given something to do. What the API server refused is told by its audit log, and by the process's own log.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.fleet import COMMANDS, OURS, Fleet
from tests.charts.rights import NAMESPACE, Ground, Right, until
from tests.support.apiserver import ApiServer

pytestmark = pytest.mark.real

TABLE = yaml.safe_load((Path(__file__).parent / "rbac.yaml").read_text())
FINALIZERS = Right("modelfleet.dev", "modelpools/finalizers", "update")
"""Asked for by admission on behalf of the operator, which makes no such request itself."""
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/modelfleet-operator"


def rights_in_table() -> list[tuple[str, Right]]:
    """Account and right of every line of rbac.yaml; the role that owners of namespaces bind is the one the chart binds in `secretNamespaces`."""
    return sorted(
        (title.split(" ", 1)[0].removesuffix("-secrets"), Right(what.partition("/")[0], resource, verb))
        for title, rules in TABLE.items()
        if not title.startswith("secret-reader")
        for what, verbs in rules.items()
        for resource in what.partition("/")[2].split(",")
        for verb in verbs
    )


def missed(ground: Ground, account: str, *rights: Right, seconds: float = 120.0) -> None:
    """Wait until the account asked for these rights in vain; the tests say which did not come."""
    with contextlib.suppress(AssertionError):
        until(lambda: set(rights) <= ground.refused(account).keys(), "refusals", seconds)


def bulk(ground: Ground, account: str, verb: str) -> list[Right]:
    """What a process lists and watches from its start on; Secrets only once something names them."""
    return sorted(r for r in ground.granted(account) if r.verb == verb and r.resource != "secrets")


def start_without(fleet: Fleet, verb: str) -> None:
    """All processes, without the right to list, or to watch, anything."""
    ground = fleet.ground
    with contextlib.ExitStack() as stack:
        for account in COMMANDS:
            stack.enter_context(ground.taken(account, *bulk(ground, account, verb)))
        stack.enter_context(fleet.running(*COMMANDS))
        for account in COMMANDS:
            missed(ground, account, *bulk(ground, account, verb))


def lead_without(fleet: Fleet) -> None:
    """The operator on its way to the Lease: first it may not look, then not make one, then not renew."""
    ground = fleet.ground
    get, create, update = (Right("coordination.k8s.io", "leases", verb) for verb in ("get", "create", "update"))
    with contextlib.ExitStack() as processes:
        with ground.taken("operator", create):
            with ground.taken("operator", get):
                processes.enter_context(fleet.running("operator"))
                missed(ground, "operator", get)
            missed(ground, "operator", create)
        until(lambda: fleet.has(LEASE), "the Lease of an operator that leads")
        with ground.taken("operator", update):
            missed(ground, "operator", update)


def work_without(fleet: Fleet) -> None:
    """All processes at work; one right after the other is taken, and something is done that needs it."""
    ground = fleet.ground
    leaver = {kind: fleet.pool() for kind in ("services", "deployments")}
    first = fleet.node(), fleet.policy(), fleet.team()
    triggers: dict[tuple[str, str], Callable[[], Any]] = {
        **{(kind, verb): fleet.pool for kind in ("services", "deployments") for verb in ("create", "patch")},
        **{(kind, "delete"): functools.partial(fleet.smaller_pool, leaver[kind]) for kind in leaver},
        ("modelpools/finalizers", "update"): fleet.pool,
        ("modelpools/status", "patch"): fleet.pool,
        ("events", "create"): fleet.pool,
        ("nodes", "patch"): fleet.node,
        ("acceleratorclasses/status", "patch"): fleet.node,
        ("routingpolicies/status", "patch"): fleet.policy,
        ("agentteams/status", "patch"): fleet.team,
        ("secrets", "list"): fleet.policy,
        ("secrets", "watch"): fleet.policy,
    }
    with fleet.running(*COMMANDS):
        until(lambda: all(fleet.has(f"/api/v1/namespaces/demo/services/{leaver['deployments']}-{flavor}") for flavor in ("l4", "cpu")), "children")
        with contextlib.suppress(AssertionError):
            until(lambda: all(settled(ground, fleet, first).values()), "the first node, policy and team", 90)
        for account, right in rights_in_table():
            trigger = triggers.get((right.resource, right.verb))
            if trigger is not None and right in ground.granted(account):
                with ground.taken(account, right):
                    trigger()
                    missed(ground, account, right)
        with contextlib.suppress(AssertionError):
            until(lambda: all(ground.granted(a) - {FINALIZERS} <= ground.used(a) for a in COMMANDS), "every right to be used", 120)


def settled(ground: Ground, fleet: Fleet, first: tuple[str, str, str]) -> dict[str, bool]:
    """Who has said what there is to say of the first node, policy and team."""
    node, policy, team = first
    held = ground.call("GET", f"{OURS}/routingpolicies/{policy}").get("status") or {}
    return {
        "node": "modelfleet.dev/accelerator-class" in ground.call("GET", f"/api/v1/nodes/{node}")["metadata"]["labels"],
        "policy": bool(held.get("gateways")) and bool(held.get("conditions")),
        "team": bool((ground.call("GET", f"{OURS}/agentteams/{team}").get("status") or {}).get("conditions")),
    }


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    """The whole story, told once; the tests below read what came of it."""
    server = ApiServer(flags=("--enable-admission-plugins=OwnerReferencesPermissionEnforcement",))
    run_dir = Path(tempfile.mkdtemp(prefix="mf-"))  # short: a socket's path has 107 characters
    try:
        server.apply_crds()
        made = Ground(server, {"gateway": {"secretNamespaces": ["demo"]}})
        fleet = Fleet(made, run_dir)
        lead_without(fleet)
        start_without(fleet, "list")
        start_without(fleet, "watch")
        work_without(fleet)
        yield made
    finally:
        server.close()
        shutil.rmtree(run_dir, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize(("account", "right"), [pytest.param(*it, id=f"{it[0]}-{it[1].verb}-{it[1].resource}") for it in rights_in_table()])
def test_each_right_is_missed_when_it_is_taken_away(ground: Ground, account: str, right: Right) -> None:
    refused = ground.refused(account)
    log = ground.log(COMMANDS[account]).read_text()
    assert right in refused, f"nobody asked for it; refused were {sorted(map(str, refused))}\n{log[-4000:]}"
    words = "set finalizers on" if right == FINALIZERS else f'cannot {right.verb} resource "{right.resource}" in API group "{right.group}"'
    assert words in log.replace('\\"', '"'), f"the process does not say that it was refused:\n{log[-4000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("account", COMMANDS)
def test_with_all_rights_everything_granted_is_used_and_nothing_else(ground: Ground, account: str) -> None:
    assert ground.used(account) == ground.granted(account) - {FINALIZERS}
    assert ground.refused(account).keys() <= ground.granted(account), "it asks for what it is not meant to have"
