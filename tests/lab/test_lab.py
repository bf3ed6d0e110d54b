"""The lab keeps its promises: real nodes with devices, pods that serve a model, a provider that counts, and nothing left after `down`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.lab import Lab
from e2e.lab.images import MODEL_PATH
from e2e.lab.nodes import GPU_RESOURCE
from e2e.lab.provider import LIMIT_PER_MINUTE

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lab() -> Lab:
    """The lab, which must be up, as it came up: it may be left over from a run that was cut off."""
    found = Lab.current()
    found.restore()
    return found


@pytest.fixture(scope="module")
def namespace(lab: Lab) -> Iterator[str]:
    """A namespace that enforces the restricted profile. A demo that stands is taken down: these tests need its devices."""
    lab.kubectl("delete", "namespace", "demo", "--ignore-not-found", "--wait=true", "--timeout=300s", timeout=330)
    name = f"lab-test-{uuid.uuid4().hex[:6]}"
    lab.kubectl("create", "namespace", name)
    lab.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    lab.kubectl("delete", "namespace", name, "--wait=true", "--timeout=300s", timeout=330)


def engine_pod(lab: Lab, name: str, node_kind: str, devices: int = 0) -> dict[str, Any]:
    """A model server as the restricted profile wants it, with `devices` GPUs."""
    amount = {GPU_RESOURCE: str(devices)} if devices else {}
    container = {
        "name": "engine",
        "image": lab.images["engine"],
        "imagePullPolicy": "Never",
        "args": f"--model {MODEL_PATH} --alias {name} --host 0.0.0.0 --port 8080 --metrics --parallel 2 --ctx-size 4096 --jinja".split(),
        "ports": [{"containerPort": 8080}],
        "resources": {"requests": {"cpu": "100m", "memory": "300Mi", **amount}, "limits": {"memory": "1Gi", **amount}},
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "nodeSelector": {"modelfleet.dev/lab-node": node_kind},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}] if devices else [],
            "containers": [container],
            "terminationGracePeriodSeconds": 120,
        },
    }


def ask(url: str, model: str, key: str = "", **more: Any) -> bytes:
    """POST a chat completion and return the raw answer."""
    body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, **more}
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), {"content-type": "application/json", "authorization": f"Bearer {key}"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=180) as answer:
        return bytes(answer.read())


def wait_for(check: Callable[[], Any], seconds: float = 180) -> Any:
    """Poll until `check` returns something true; its last answer otherwise."""
    deadline = time.monotonic() + seconds
    while not (found := check()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


@pytest.mark.lab
def test_nodes_tell_what_real_ones_tell(lab: Lab) -> None:
    h100, l4 = lab.node("h100"), lab.node("l4")
    assert h100["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    assert h100["status"]["allocatable"][GPU_RESOURCE] == "1"
    assert l4["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-L4"
    assert l4["status"]["allocatable"][GPU_RESOURCE] == "2"
    assert [t["key"] for t in h100["spec"]["taints"]] == ["nvidia.com/gpu"]
    assert GPU_RESOURCE not in lab.node("cpu")["status"]["allocatable"]


@pytest.mark.lab
def test_a_model_answers_on_every_node_by_cluster_ip_and_a_second_pod_finds_no_device(lab: Lab, namespace: str) -> None:
    for name, kind, devices in (("on-h100", "h100", 1), ("on-l4", "l4", 1), ("on-cpu", "cpu", 0)):
        lab.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(engine_pod(lab, name, kind, devices)))
        lab.kubectl("expose", "-n", namespace, "pod", name, "--port", "80", "--target-port", "8080")
    lab.kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod", "--all", "--timeout=300s", timeout=330)
    for name in ("on-h100", "on-l4", "on-cpu"):
        pod, service = lab.get("pod", "-n", namespace, name), lab.get("service", "-n", namespace, name)
        assert pod["spec"]["nodeName"] == name.removeprefix("on-")
        assert json.loads(ask(f"http://{pod['status']['podIP']}:8080/v1", name))["usage"]["completion_tokens"] > 0
        assert wait_for(lambda s=service, n=name: _tokens(f"http://{s['spec']['clusterIP']}/v1", n))  # type: ignore[misc]
    lab.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(engine_pod(lab, "second-h100", "h100", 1)))
    assert wait_for(lambda: "Insufficient nvidia.com/gpu" in _unscheduled(lab, namespace, "second-h100"))


@pytest.mark.lab
def test_a_pod_reaches_the_api_server_other_pods_and_the_provider(lab: Lab, namespace: str) -> None:
    service = lab.get("service", "-n", namespace, "on-h100")["spec"]["clusterIP"]
    script = (
        "import ssl, urllib.request as u; t = open('/var/run/secrets/kubernetes.io/serviceaccount/token').read();"
        "c = ssl.create_default_context(cafile='/var/run/secrets/kubernetes.io/serviceaccount/ca.crt');"
        "r = u.Request('https://10.96.0.1/apis', headers={'Authorization': 'Bearer ' + t});"
        f"print(u.urlopen(r, context=c).status, u.urlopen('http://{service}/health').status, u.urlopen('{lab.provider.url.removesuffix('/v1')}/_stats').status)"
    )
    done = lab.kubectl("exec", "-n", namespace, "on-l4", "--", "python3", "-c", script)
    assert done.stdout.split() == ["200", "200", "200"]


@pytest.mark.lab
def test_a_terminated_server_finishes_the_stream_in_flight(lab: Lab, namespace: str) -> None:
    lab.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(engine_pod(lab, "leaving", "cpu")))
    lab.kubectl("wait", "-n", namespace, "--for=condition=Ready", "pod/leaving", "--timeout=300s", timeout=330)
    url = f"http://{lab.get('pod', '-n', namespace, 'leaving')['status']['podIP']}:8080/v1/chat/completions"
    body = {"messages": [{"role": "user", "content": "Tell a long story."}], "max_tokens": 150, "stream": True, "ignore_eos": True}
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=300) as answer:
        assert answer.readline().startswith(b"data:")
        lab.kubectl("delete", "pod", "-n", namespace, "leaving", "--wait=false")
        rest = answer.read()
    assert rest.rstrip().endswith(b"data: [DONE]")
    lab.kubectl("wait", "-n", namespace, "--for=delete", "pod/leaving", "--timeout=300s", timeout=330)


@pytest.mark.lab
def test_devices_can_be_taken_and_given_back(lab: Lab) -> None:
    try:
        lab.set_devices("l4", 0)
        assert lab.node("l4")["status"]["allocatable"][GPU_RESOURCE] == "0"
    finally:
        lab.set_devices("l4", 2)
    assert lab.node("l4")["status"]["allocatable"][GPU_RESOURCE] == "2"


@pytest.mark.lab
def test_the_provider_checks_counts_and_limits(lab: Lab) -> None:
    provider = lab.provider  # shared with whatever else runs on the lab: only differences are asserted
    before = provider.stats()["by_status"]
    told = json.loads(ask(provider.url, provider.model, provider.key))["usage"]
    stream = ask(provider.url, provider.model, provider.key, stream=True, stream_options={"include_usage": True})
    streamed = [json.loads(line[5:]).get("usage") for line in stream.split(b"\n") if line.startswith(b"data: {")][-1]
    assert _status(provider.url, provider.model, "sk-wrong") == (401, None)
    assert _status(provider.url, "gpt-9", provider.key) == (404, None)
    try:
        provider.configure(limit=0)
        status, retry_after = _status(provider.url, provider.model, provider.key)
    finally:
        provider.configure(limit=LIMIT_PER_MINUTE)
    assert status == 429
    assert 1 <= int(retry_after or 0) <= 61
    after = provider.stats()["by_status"]
    grown = {s: {k: n - before.get(s, {}).get(k, 0) for k, n in row.items()} for s, row in after.items()}
    assert grown["200"]["completion_tokens"] >= told["completion_tokens"] + streamed["completion_tokens"] > 0
    assert grown["200"]["prompt_tokens"] >= told["prompt_tokens"] + streamed["prompt_tokens"] > 0
    assert all(grown[s]["requests"] >= 1 for s in ("401", "404", "429"))


@pytest.mark.lab
def test_up_again_changes_nothing(lab: Lab) -> None:
    before = {n: lab.process(n).pid for n in lab.process_names}
    subprocess.run([sys.executable, "-m", "e2e.lab", "up"], cwd=CHECKOUT, check=True, timeout=600)
    assert {n: lab.process(n).pid for n in lab.process_names} == before
    assert all(before.values())


@pytest.mark.lab_lifecycle
@pytest.mark.timeout(1200)
def test_down_leaves_nothing() -> None:
    """A lab of its own in a network namespace of its own: up, a pod, down; then nothing of it is to be found."""
    name = f"t{uuid.uuid4().hex[:4]}"
    script = f"""set -e
lab="{sys.executable} -m e2e.lab"
$lab up --name {name} --nodes cpu
k="$({sys.executable} -c 'from e2e.lab.binaries import binary; print(binary("kubectl"))') --kubeconfig=$($lab kubeconfig --name {name})"
image=$({sys.executable} -c 'from e2e.lab import Lab; print(Lab("{name}").images["pause"])')
until $k get serviceaccount default >/dev/null 2>&1; do sleep 0.2; done
$k run left --image=$image --image-pull-policy=Never --restart=Never
$k wait --for=condition=Ready pod/left --timeout=300s
$lab down --purge --name {name}
echo "LINKS $(ip -o link | grep -v ' lo:' | wc -l)"
echo "RULES $(iptables-save | grep -c -E 'KUBE|modelfleet|CNI' || true) $(ip6tables-save | grep -c -E 'KUBE|CNI' || true)"
"""
    environment = {**os.environ, "MODELFLEET_LAB_STATE": "/run/modelfleet-lab-test"}
    done = subprocess.run(["unshare", "--net", "bash", "-c", script], cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LINKS 0\nRULES 0 0" in done.stdout
    assert name not in Path("/proc/mounts").read_text()
    assert not Path("/run/modelfleet-lab-test").exists()
    assert list(Path("/sys/fs/cgroup").glob(f"**/modelfleet-{name}-*")) == []
    assert [p for p in Path("/proc").glob("[0-9]*/cmdline") if _reads(p) and f"/{name}/" in _reads(p)] == []


def _tokens(url: str, model: str) -> int:
    try:
        return int(json.loads(ask(url, model))["usage"]["completion_tokens"])
    except (urllib.error.URLError, OSError):
        return 0


def _status(url: str, model: str, key: str) -> tuple[int, str | None]:
    try:
        ask(url, model, key)
    except urllib.error.HTTPError as e:
        return e.code, e.headers.get("retry-after")
    return 200, None


def _unscheduled(lab: Lab, namespace: str, pod: str) -> str:
    conditions = lab.get("pod", "-n", namespace, pod)["status"].get("conditions", [])
    return " ".join(c.get("message", "") for c in conditions if c["type"] == "PodScheduled")


def _reads(path: Path) -> str:
    try:
        return path.read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""
