"""The command `estimate`: offline from manifests, against a cluster, and what it cannot read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.apiserver import ApiServer

from modelfleet.cli import main

POOL = """
---
apiVersion: modelfleet.dev/v1alpha1
kind: ModelPool
metadata: {{name: {name}, namespace: legal}}
spec:
  model: {{name: m, source: "hf://x/y"}}
  engine: {{type: VLLM}}
  flavors:
  - {{name: far, endpoint: {{url: "https://x.example/v1", model: m, price: {{inputPerMillion: "{given}", outputPerMillion: "{made}"}}}}}}
"""
POOLS = POOL.format(name="boss", given="3", made="15") + POOL.format(name="small", given="0.02", made="0.04")


def the_team() -> str:
    text = (Path(__file__).parents[2] / "docs" / "run-a-team.md").read_text()
    return text.partition("```yaml\n")[2].partition("```")[0].replace("routingPolicyRef: { name: frontier }", "modelPoolRef: { name: boss }")


@pytest.fixture
def team(tmp_path: Path) -> Path:
    (tmp_path / "team.yaml").write_text(the_team())
    (tmp_path / "pools.yaml").write_text(POOLS)
    return tmp_path / "team.yaml"


@pytest.mark.parametrize(("tokens", "code", "limit"), [(0, 0, None), (20_000, 0, None), (50_000, 3, "cost"), (500_000, 4, None)])
def test_what_a_run_may_cost_and_whether_it_fits(team: Path, capsys: pytest.CaptureFixture[str], tokens: int, code: int, limit: str | None) -> None:
    assert main(["estimate", "-f", str(team), "-f", str(team.parent / "pools.yaml"), "--input-tokens", str(tokens), "--json"]) == code
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["team"], told["exitCode"], told["firstLimit"]) == ("legal/contract-review", code, limit)
    assert float(told["minimumCost"]) <= float(told["worstCost"])
    assert (told["cannotStart"] is not None) == (code == 4)
    if code != 4:
        assert sum(round(float(role["worstCost"]) * 1e6) for role in told["roles"]) == round(float(told["worstCost"]) * 1e6)
        assert sum(role["maxCalls"] for role in told["roles"]) == told["maxModelCalls"]


def test_the_table_says_it_in_words(team: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "-f", str(team.parent), "--input-tokens", "50000"]) == 3
    printed = capsys.readouterr().out
    assert "pool:legal/boss" in printed
    assert "the worst case exceeds perRun.cost first" in printed
    assert main(["estimate", "-f", str(team.parent), "--input-tokens", "500000"]) == 4
    assert "it cannot start: team legal/contract-review: the text has" in capsys.readouterr().out


def test_files_that_tell_nothing_are_named(team: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "-f", str(team.parent / "pools.yaml"), "--input-tokens", "1"]) == 1
    assert "there is no AgentTeam in" in capsys.readouterr().err
    team.write_text(the_team().replace("maxTokens: 1200", "maxTokens: many"))
    assert main(["estimate", "-f", str(team), "--input-tokens", "1"]) == 1
    assert "AgentTeam legal/contract-review: spec.roles[0].sampling.maxTokens" in capsys.readouterr().err
    team.write_text(the_team().replace("reduce: { role: boss }", "reduce: { role: chief }"))
    assert main(["estimate", "-f", str(team.parent), "--input-tokens", "1"]) == 1
    assert "chief" in capsys.readouterr().err


def test_pools_that_the_files_lack_are_read_from_the_cluster(team: Path, apiserver_with_crds: ApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["estimate", "-f", str(team), "--input-tokens", "1000", "--kubeconfig", str(apiserver_with_crds.kubeconfig), "--json"]
    assert main(arguments) == 1
    assert "legal/boss" in capsys.readouterr().err
    apiserver_with_crds.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: legal}\n")
    apiserver_with_crds.apply(POOLS)
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)[0]["worstCost"] is not None
