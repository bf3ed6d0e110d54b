"""Promise: the command line tells the same story as the cluster, in words and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from e2e.fleet import DEMO, Fleet

pytestmark = pytest.mark.lab


def test_explain_request_names_the_pool_that_then_serves(fleet: Fleet, tmp_path: Path) -> None:
    body = tmp_path / "request.json"
    body.write_text(json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Name three colours."}]}))
    told = fleet.modelfleet_json("explain", "request", "--policy", f"{DEMO}/assistant", "--body", str(body))
    answer = fleet.ask("Name three colours.")
    assert answer.pool == f"{DEMO}/{told['chain'][0]}"
    assert told["rule"] == answer.decision["rule"]
    assert "small" in fleet.modelfleet("explain", "request", "--policy", f"{DEMO}/assistant", "--body", str(body))


def test_plan_on_a_settled_fleet_changes_nothing_and_says_what_an_edit_would(fleet: Fleet, tmp_path: Path) -> None:
    assert fleet.modelfleet_json("plan")["changes"] == []
    pool = fleet.pool("small")
    edited = {k: pool[k] for k in ("apiVersion", "kind", "spec")} | {"metadata": {"name": "small", "namespace": DEMO}}
    edited["spec"]["replicas"] = 2
    manifest = tmp_path / "pool.yaml"
    manifest.write_text(yaml.safe_dump(edited))
    changes = fleet.modelfleet_json("plan", "-f", str(manifest))["changes"]
    assert [(c["kind"], c["name"], c["action"]) for c in changes] == [("Deployment", "small-l4", "apply")]


def test_explain_pool_and_top_show_flavors_reasons_and_cost(fleet: Fleet) -> None:
    explained = fleet.modelfleet("explain", "pool", f"{DEMO}/boss")
    for word in ("h100", "l4", "burst", "first choice", "not needed"):
        assert word in explained
    rows = {r["pool"]: r for r in fleet.modelfleet_json("top", "--once")}
    assert rows[f"{DEMO}/boss"]["flavors"] == "h100:1"
    assert float(rows[f"{DEMO}/boss"]["costPerHour"]) > 0
