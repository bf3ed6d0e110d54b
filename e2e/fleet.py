"""The example fleet on a cluster: install the charts, apply the example, ask questions, read back what the API says.

The demo prints with it and the end-to-end tests assert with it, so that what is shown is what is tested.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from e2e.cluster import ROOT, Cluster, ClusterError, wait_until

SYSTEM = "modelfleet-system"
DEMO = "demo"
PUBLIC_MODEL = "hf://bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M"
EXAMPLE = ROOT / "policies" / "examples" / "fleet" / "base"
OURS = "modelfleet.dev/demo"
"""Label of the namespaces that the demo made."""


@dataclass(frozen=True)
class Answer:
    """One reply through the gateway. ``cost_micro_usd`` is priced from the pool's status; None while the flavor has no price."""

    text: str
    model: str
    pool: str
    flavor: str
    decision: dict[str, str]
    attempts: int
    input_tokens: int
    output_tokens: int
    cost_micro_usd: float | None


@dataclass(frozen=True)
class TeamAnswer:
    """One answer of an AgentTeam. ``spent`` is the response's own account of the run (its ``modelfleet`` block); ``document_tokens`` at four bytes each."""

    text: str
    model: str
    document_tokens: int
    spent: dict[str, Any]

    def role(self, name: str) -> dict[str, int]:
        """Calls, tokens and cost of one role; zeros for a role that was not asked."""
        return next((r for r in self.spent["byRole"] if r["role"] == name), {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost_micro_usd": 0})


class Fleet:
    """The installed product and the example fleet."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._gateway: str | None = None

    # -- bringing it up ---------------------------------------------------------------------------------------------

    def install(self) -> None:
        """Install or upgrade both charts and wait for their Deployments. The example's namespace comes first: the gateway's grant on Secrets lies in it."""
        mine = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM, "labels": {OURS: "true"}}}
        self.apply(mine, *(o for o in self.example() if o["kind"] == "Namespace"))
        self.cluster.helm("upgrade", "--install", "modelfleet-crds", str(ROOT / "charts" / "modelfleet-crds"), "-n", SYSTEM, "--create-namespace", "--wait")
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as values:
            yaml.safe_dump(self.chart_values(), values)
            values.flush()
            self.cluster.helm(
                "upgrade", "--install", "modelfleet", str(ROOT / "charts" / "modelfleet"), "-n", SYSTEM, "-f", values.name, "--wait", "--timeout", "400s"
            )

    def chart_values(self) -> dict[str, Any]:
        """What this cluster needs beyond the chart's defaults: where Secrets may be read, and images that are not the published ones.

        In the lab they were built from the checkout; elsewhere IMAGE, ENVOY_IMAGE and ENGINE_IMAGE name them, if set.
        """
        values: dict[str, Any] = {"gateway": {"secretNamespaces": [DEMO]}}
        if self.cluster.lab is not None:
            values["gateway"]["decideTimeoutMs"] = 5000  # two cores for a whole cluster and its models: a decision may have to wait for one
            values["endpoints"] = {"allow": ["10.245.0.0/16"]}  # the lab's provider is a neighbour of its nodes
        product, envoy, engine = self._images()
        if product:
            values["image"] = _image(product)
        if envoy:
            values["gateway"]["envoy"] = {"image": _image(envoy)}
        if engine:
            values["engines"] = {"LlamaCpp": engine}
        return values

    def _images(self) -> tuple[str | None, str | None, str | None]:
        if self.cluster.lab is not None:
            images = self.cluster.lab.images
            return images["modelfleet"], images["envoy"], images["engine"]
        return os.environ.get("IMAGE"), os.environ.get("ENVOY_IMAGE"), os.environ.get("ENGINE_IMAGE")

    def example(self) -> list[dict[str, Any]]:
        """The objects of the example fleet, with what only the cluster at hand can know.

        In the lab the remote endpoint is the lab's provider. Elsewhere there is none: a cpu flavor stands in for it, so that any cluster can serve, and
        the model is downloaded unless ENGINE_IMAGE brings it.
        """
        objects = [o for f in sorted(EXAMPLE.glob("*.yaml")) for o in yaml.safe_load_all(f.read_text()) if o and o["kind"] != "Kustomization"]
        for namespace in (o for o in objects if o["kind"] == "Namespace"):
            namespace["metadata"].setdefault("labels", {})[OURS] = "true"
        for pool in (o for o in objects if o["kind"] == "ModelPool"):
            flavors = pool["spec"]["flavors"]
            if self.cluster.lab is not None:
                for flavor in flavors:
                    if "endpoint" in flavor:
                        flavor["endpoint"]["url"] = self.cluster.lab.provider.url
                continue
            if any("endpoint" in f for f in flavors):
                pool["spec"]["flavors"] = [
                    *(f for f in flavors if "endpoint" not in f),
                    {"name": "cpu", "acceleratorClass": "cpu", "capacity": {"tokensPerSecond": 100}},
                ]
            if "ENGINE_IMAGE" not in os.environ:
                pool["spec"]["model"]["source"] = PUBLIC_MODEL
        for secret in (o for o in objects if o["kind"] == "Secret" and self.cluster.lab is not None):
            (name,) = secret.pop("stringData")
            secret["data"] = {name: base64.b64encode(self.cluster.lab.provider.key.encode()).decode()}
        return objects

    def apply(self, *objects: dict[str, Any]) -> str:
        """kubectl apply."""
        return self.cluster.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def apply_example(self) -> None:
        """Apply the example fleet."""
        self.apply(*self.example())

    def wait_ready(self, timeout: float = 400) -> None:
        """Until every policy of the example is Ready and every pool serves from pods of its own."""
        wait_until(self.operator_leads, timeout, "the operator to lead", explain=lambda: self.cluster.kubectl("get", "pods,leases", "-n", SYSTEM, check=False))
        for condition, kind in (("WorkloadsReady", "modelpools"), ("Ready", "modelpools,routingpolicies,agentteams")):
            argv = ("wait", "-n", DEMO, f"--for=condition={condition}", kind, "--all", f"--timeout={timeout:.0f}s")
            done = self.cluster.run(self.cluster.kubectl_bin, *argv, check=False, timeout=timeout + 30)
            if done.returncode != 0:
                seen = self.cluster.kubectl("get", "mp,rp,at,pods", "-n", DEMO, check=False)
                raise ClusterError(f"the example fleet is not {condition} after {timeout:.0f} s:\n{done.stderr}\n{seen}")

    def settle(self, timeout: float = 400) -> None:
        """Until the fleet stands as the example wants it: every pool on its first flavor, nothing starting or leaving, the endpoint reachable."""
        wait_until(self._settled, timeout, "the example fleet to settle", explain=lambda: self.cluster.kubectl("get", "mp,pods", "-n", DEMO, check=False))

    def operator_leads(self) -> bool:
        """True when an operator pod that exists holds the Lease and renewed it lately: statuses alone may be those of its predecessor."""
        leases = [o for o in self.cluster.get("leases", namespace=SYSTEM)["items"] if o["metadata"]["name"] == "modelfleet-operator"]
        pods = [p["metadata"]["name"] for p in self.cluster.get("pods", namespace=SYSTEM, selector="app.kubernetes.io/component=operator")["items"]]
        if not leases or not any(str(leases[0]["spec"].get("holderIdentity")).startswith(f"{name}_") for name in pods):
            return False
        return (datetime.now(UTC) - datetime.fromisoformat(leases[0]["spec"]["renewTime"])).total_seconds() < 12

    def renew_operator(self) -> None:
        """A new operator pod: the kubelet makes a container that was killed often wait for minutes before it starts again, a new pod's not at all."""
        self.cluster.kubectl("-n", SYSTEM, "delete", "pod", "-l", "app.kubernetes.io/component=operator", "--wait=false")
        self.cluster.kubectl("-n", SYSTEM, "rollout", "status", "deployment/modelfleet-operator", "--timeout=300s")

    def _settled(self) -> bool:
        if not self.operator_leads():
            return False
        for pool in self.cluster.get("modelpools", namespace=DEMO)["items"]:
            status = pool.get("status") or {}
            if status.get("observedGeneration") != pool["metadata"]["generation"]:
                return False
            first, *later = [f for f in status["flavors"] if f.get("reachable") is None]
            if first["desired"] != pool["spec"]["replicas"] or first["ready"] != first["desired"] or any(f.get("desired", 0) for f in later):
                return False
            if any(f.get("reachable") is False for f in status["flavors"]):
                return False
        pods = self.cluster.get("pods", namespace=DEMO, selector="modelfleet.dev/pool")["items"]
        return all(p["status"].get("phase") == "Running" and "deletionTimestamp" not in p["metadata"] for p in pods)

    def check_images(self) -> None:
        """Raise unless the nodes can have the product's image: on a cluster of the user's own it has to be named."""
        if self.cluster.lab is None and not os.environ.get("IMAGE"):
            raise ClusterError(
                "CLUSTER=current needs an image your nodes can pull: `docker build -f images/modelfleet/Dockerfile -t REGISTRY/modelfleet:dev .`, push it, "
                "and set IMAGE=REGISTRY/modelfleet:dev (ENVOY_IMAGE and ENGINE_IMAGE likewise, if the defaults cannot be pulled)"
            )

    def check_ours(self) -> None:
        """Raise unless the demo may write here: on a cluster of the user's own it touches no release and no namespace that it did not make."""
        if self.cluster.lab is not None:
            return
        for namespace in (SYSTEM, DEMO):
            found = self.cluster.run(self.cluster.kubectl_bin, "get", "namespace", namespace, "--ignore-not-found", "-o", "json").stdout
            if found and OURS not in (json.loads(found)["metadata"].get("labels") or {}):
                raise ClusterError(f"namespace {namespace} exists and is not the demo's: use what runs there, as docs/install.md tells")

    def uninstall(self) -> None:
        """Remove the example, the product and, if no object of anybody else's needs them, the CRDs."""
        kubectl = self.cluster.kubectl
        kubectl("delete", "namespace", DEMO, "--ignore-not-found", "--wait")
        self.cluster.helm("uninstall", "modelfleet", "-n", SYSTEM, "--wait", "--ignore-not-found")
        kubectl("label", "nodes", "--all", "modelfleet.dev/accelerator-class-")
        crds = [c["metadata"]["name"] for c in self.cluster.get("crds")["items"] if c["spec"]["group"] == "modelfleet.dev"]
        left = [o for crd in crds for o in self.cluster.get(crd)["items"]] if crds else []
        if not left:
            self.cluster.helm("uninstall", "modelfleet-crds", "-n", SYSTEM, "--wait", "--ignore-not-found")
            for crd in crds:
                kubectl("delete", "crd", crd, "--ignore-not-found")
        kubectl("delete", "namespace", SYSTEM, "--ignore-not-found", "--wait")

    # -- asking -----------------------------------------------------------------------------------------------------

    @property
    def gateway(self) -> str:
        """Base URL of the gateway."""
        if self._gateway is None:
            self._gateway = self.cluster.service_url(SYSTEM, "modelfleet-gateway", 80)
        return self._gateway

    def ask(
        self, prompt: str, *, model: str = "auto", stream: bool = False, headers: dict[str, str] | None = None, timeout: float = 180, **options: Any
    ) -> Answer:
        """Ask through the gateway with the official OpenAI client, which is told not to retry: a failed request is seen."""
        client = OpenAI(base_url=f"{self.gateway}/v1", api_key="unused", max_retries=0, timeout=timeout)
        options.setdefault("max_tokens", 48)
        request = {"model": model, "messages": [{"role": "user", "content": prompt}], "extra_headers": headers or {}, **options}
        with client:
            if not stream:
                raw = client.chat.completions.with_raw_response.create(**request)
                body = raw.parse()
                return self._answer(body.choices[0].message.content or "", body.model, raw.headers, body.usage)
            usage, text, served = None, [], ""
            raw = client.chat.completions.with_raw_response.create(**request, stream=True, stream_options={"include_usage": True})
            finished = False
            for chunk in raw.parse():
                served = chunk.model or served
                usage = chunk.usage or usage
                text += [c.delta.content or "" for c in chunk.choices]
                finished = finished or any(c.finish_reason for c in chunk.choices)
            if not finished:
                raise ClusterError("the stream ended without a finish_reason: it was cut")
            return self._answer("".join(text), served, raw.headers, usage)

    def ask_team(self, document: str, question: str, *, team: str = f"{DEMO}/readers", timeout: float = 400, **options: Any) -> TeamAnswer:
        """Ask a team through the gateway with the official OpenAI client: the document first, the question last."""
        client = OpenAI(base_url=f"{self.gateway}/v1", api_key="unused", max_retries=0, timeout=timeout)
        messages: Any = [{"role": "user", "content": document}, {"role": "user", "content": question}]
        with client:
            body = client.chat.completions.create(model=team, messages=messages, **options)
        text = (body.choices[0].message.content or "").strip()
        return TeamAnswer(text, body.model, len(document.encode()) // 4, (body.model_extra or {})["modelfleet"])

    def _answer(self, text: str, model: str, headers: Any, usage: Any) -> Answer:
        namespace, pool, flavor = headers["x-modelfleet-served"].split("/")
        decision = dict(part.split("=", 1) for part in headers["x-modelfleet-decision"].split(";") if "=" in part)
        spent = (usage.prompt_tokens, usage.completion_tokens)
        return Answer(
            text.strip(), model, f"{namespace}/{pool}", flavor, decision, int(headers["x-modelfleet-attempts"]), *spent, self._cost(pool, flavor, *spent)
        )

    def _cost(self, pool: str, flavor: str, tokens_in: int, tokens_out: int) -> float | None:
        for price in self.pool(pool)["status"].get("price", []):
            if price["flavor"] == flavor:
                return tokens_in * float(price["inputPerMillion"]) + tokens_out * float(price["outputPerMillion"])
        return None

    # -- reading back -----------------------------------------------------------------------------------------------

    def pool(self, name: str) -> dict[str, Any]:
        """A ModelPool of the example, as JSON."""
        return self.cluster.get("modelpool", name, DEMO)

    def flavor(self, pool: str, flavor: str) -> dict[str, Any]:
        """Status of one flavor; an empty mapping before it was written."""
        return next((f for f in (self.pool(pool).get("status") or {}).get("flavors", []) if f["name"] == flavor), {})

    def condition(self, kind: str, name: str, type_: str) -> dict[str, Any]:
        """One condition of an object of the example; an empty mapping when absent."""
        status = self.cluster.get(kind, name, DEMO).get("status") or {}
        return next((c for c in status.get("conditions", []) if c["type"] == type_), {})

    def pods(self, pool: str, flavor: str | None = None) -> list[dict[str, Any]]:
        """Pods of a pool (of one flavor) that are not leaving."""
        selector = f"modelfleet.dev/pool={pool}" + (f",modelfleet.dev/flavor={flavor}" if flavor else "")
        return [p for p in self.cluster.get("pods", namespace=DEMO, selector=selector)["items"] if "deletionTimestamp" not in p["metadata"]]

    def router_metrics(self) -> Iterator[Any]:
        """Samples of every gateway pod's router."""
        for pod in self.cluster.get("pods", namespace=SYSTEM, selector="app.kubernetes.io/component=gateway")["items"]:
            if pod["status"].get("podIP") and "deletionTimestamp" not in pod["metadata"] and self.cluster.lab is not None:
                text = httpx.get(f"http://{pod['status']['podIP']}:8081/metrics", timeout=60).text
                for family in text_string_to_metric_families(text):
                    yield from family.samples

    def counted(self, name: str, **labels: str) -> float:
        """Sum of a router counter over gateways, for samples that carry these labels."""
        return sum(s.value for s in self.router_metrics() if s.name == name and labels.items() <= s.labels.items())

    def counted_at_rest(self, name: str, **labels: str) -> float:
        """The same once it stands still: access logs arrive in batches, so what was asked before may still be on its way."""
        seen = [self.counted(name, **labels)]

        def rests() -> bool:
            seen.append(self.counted(name, **labels))
            return len(seen) > 2 and seen[-1] == seen[-2] == seen[-3]

        wait_until(rests, 180, f"{name} to stand still", every=3.0)
        return seen[-1]

    def modelfleet(self, *argv: str) -> str:
        """stdout of the `modelfleet` command against this cluster."""
        return self.cluster.run(str(Path(ROOT, ".venv", "bin", "modelfleet")), *argv).stdout

    def modelfleet_json(self, *argv: str) -> Any:
        """The same with --json, parsed."""
        return json.loads(self.modelfleet(*argv, "--json"))


def _image(reference: str) -> dict[str, str]:
    repository, _, tag = reference.rpartition(":")
    return {"repository": repository, "tagOverride": tag}


WHY = {
    "RuleMatched": "rule {rule} matches; it lists {chain}",
    "RulePinned": "the entrypoint pins rule {rule}; it lists {chain}",
    "Weighted": "rule {rule} draws by weight; this session drew {chain}",
    "DefaultChain": "no rule matches; the default chain is {chain}",
    "BodyCut": "the body was too long to read whole; the default chain is {chain}",
    "Compiled": "nothing in the content could matter, so Envoy decided alone by rule {rule}; the chain is {chain}",
    "Team": "a team of agents answered",
    "DeciderLost": "the decider was away: Envoy's own static chain served",
}


def words(decision: dict[str, str]) -> str:
    """The decision header in words."""
    chain = decision.get("chain", "").replace(",", ", then ")
    return WHY.get(decision.get("why", ""), "{why}").format(rule=decision.get("rule", ""), chain=chain, why=decision.get("why", "?"))
