"""How soon a change is served: the clock starts at the API server's answer, a probe asks the gateway every 5 ms until the answer is the new one."""

from __future__ import annotations

import http.client
import random
import time
from collections.abc import Callable
from functools import partial

from e2e.lab.steps import LabError

from . import objects
from .figures import Json, summary
from .scene import Scene
from .upstream import BACKEND

PROBE = 0.005
PAUSE = (0.05, 0.15)
"""Seconds between a change that is served and the next; drawn, so that changes meet the router at any moment."""
_LIMIT = 15.0
_GROUP = f"/apis/modelfleet.dev/v1alpha1/namespaces/{objects.NAMESPACE}"
_SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{objects.NAMESPACE}/endpointslices"


def policies(scene: Scene, number: int) -> Json:
    """Policies whose default chain is turned round, one that needs decisions and one that does not by turns."""
    patcher, dice = scene.patcher(), random.Random(1)
    found: dict[str, list[float]] = {"decided": [], "compiled": []}
    probes = {kind: _Probe(scene, f"follow-{kind}") for kind in found}
    try:
        for n in range(number):
            kind = ("decided", "compiled")[n % 2]
            chain = ("small", "large") if n // 2 % 2 else ("large", "small")
            told = patcher.patch(f"{_GROUP}/routingpolicies/follow-{kind}", objects.chain_patch(chain))
            mark = f"policy={objects.NAMESPACE}/follow-{kind}/{told['metadata']['generation']};"
            found[kind].append(probes[kind].wait(partial(_first_is, mark, f"{objects.NAMESPACE}/{chain[0]}/")))
            time.sleep(dice.uniform(*PAUSE))
    finally:
        patcher.close()
        for probe in probes.values():
            probe.close()
    return summary([ms for times in found.values() for ms in times]) | {"of": {kind: summary(times) for kind, times in found.items()}}


def endpoints(scene: Scene, number: int) -> Json:
    """A pool of one pod that moves from one address to the other and back."""
    patcher, dice, probe = scene.patcher(), random.Random(2), _Probe(scene, "moving")
    found: list[float] = []
    try:
        for n in range(number):
            address = scene.addresses[(n + 1) % 2]
            patcher.patch(f"{_SLICES}/moving-gpu-x", objects.endpoints([address]))
            found.append(probe.wait(partial(_from, address)))
            time.sleep(dice.uniform(*PAUSE))
    finally:
        patcher.close()
        probe.close()
    return summary(found)


def _from(address: str, headers: dict[str, str]) -> bool:
    return headers.get(BACKEND) == address


def _first_is(mark: str, pool: str, headers: dict[str, str]) -> bool:
    return mark in headers.get("x-modelfleet-decision", "") and headers.get("x-modelfleet-served", "").startswith(pool)


class _Probe:
    """One request after the other on one connection."""

    def __init__(self, scene: Scene, model: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", scene.port, timeout=10)
        self._body, self._model = objects.body(model, 200), model

    def wait(self, new: Callable[[dict[str, str]], bool]) -> float:
        """Milliseconds from now until an answer is `new`. Raises LabError when none is, or when an answer is an error."""
        began = asked = time.perf_counter()
        while True:
            if new(self._ask()):
                return 1000 * (time.perf_counter() - began)
            if time.perf_counter() - began > _LIMIT:
                raise LabError(f"a change of {self._model} was not served within {_LIMIT:.0f} s")
            asked += PROBE
            time.sleep(max(0.0, asked - time.perf_counter()))

    def _ask(self) -> dict[str, str]:
        self._connection.request("POST", "/v1/chat/completions", self._body, {"content-type": "application/json"})
        response = self._connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise LabError(f"a request for {self._model} failed while a change was followed: {response.status} {text[:300].decode(errors='replace')}")
        return {key.lower(): value for key, value in response.getheaders()}

    def close(self) -> None:
        self._connection.close()
