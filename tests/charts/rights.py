"""The product's processes on a real API server with the chart's rights, some of them taken away: what each asked for, and what was refused."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml
from e2e.lab.binaries import binary, ensure_binaries
from tests.support.apiserver import CHECKOUT, ApiServer

NAMESPACE = "modelfleet-system"
PATIENCE = 120.0
_REFUSED = re.compile(r'cannot (?P<verb>[a-z]+) resource "(?P<resource>[a-z/]+)" in API group "(?P<group>[a-z0-9.]*)"')
_OWNER = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on"


class Right(NamedTuple):
    """A verb on a resource (``deployments``, ``modelpools/status``) of an API group."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


def rights_of(role: dict[str, Any]) -> set[Right]:
    return {Right(g, r, v) for rule in role["rules"] for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}


def without(role: dict[str, Any], taken: Collection[Right]) -> dict[str, Any]:
    """The role with some rights less; one rule for each right that is left, names of objects kept."""
    left = [
        {"apiGroups": [g], "resources": [r], "verbs": [v], **({"resourceNames": rule["resourceNames"]} if "resourceNames" in rule else {})}
        for rule in role["rules"]
        for g in rule["apiGroups"]
        for r in rule["resources"]
        for v in rule["verbs"]
        if Right(g, r, v) not in taken
    ]
    return {**role, "rules": left}


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    deadline = time.monotonic() + seconds
    while not (seen := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)
    return seen


class Ground:
    """One API server with the chart installed. ``account`` below is ``operator``, ``gateway`` or ``teams``."""

    def __init__(self, server: ApiServer, values: dict[str, Any]) -> None:
        ensure_binaries(["helm"])
        self.server = server
        self.folder = server.folder
        self._http = httpx.Client(
            base_url=server.url, verify=ssl.create_default_context(cafile=str(server.ca_file)), headers={"Authorization": f"Bearer {server.token}"},
            trust_env=False, timeout=60,
        )  # fmt: skip
        for name in (NAMESPACE, "demo"):
            self.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self.helm("install", "modelfleet", str(CHECKOUT / "charts" / "modelfleet"), "-n", NAMESPACE, "-f", "-", values=values)
        found = server.get("clusterroles,roles", "-l", "app.kubernetes.io/part-of=modelfleet", "--all-namespaces")["items"]
        self.roles: list[dict[str, Any]] = found
        self._taken: dict[str, set[Right]] = defaultdict(set)
        self._read = 0
        self._events: list[dict[str, Any]] = []

    def helm(self, *argv: str, values: dict[str, Any] | None = None) -> None:
        env = {**os.environ, "KUBECONFIG": str(self.server.kubeconfig)}
        subprocess.run([str(binary("helm")), *argv], input=json.dumps(values or {}), text=True, env=env, check=True, capture_output=True)

    def make(self, *objects: dict[str, Any]) -> None:
        self.server.apply(yaml.safe_dump_all(objects))

    def call(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """One request as admin; fails on an error."""
        answer = self._http.request(method, path, content=json.dumps(body) if body is not None else None, headers={"Content-Type": content_type})
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    # -- roles -------------------------------------------------------------------------------------------------------

    def granted(self, account: str) -> set[Right]:
        """What the account's roles say."""
        return set().union(*(rights_of(role) for role in self.roles_of(account)))

    def roles_of(self, account: str) -> list[dict[str, Any]]:
        mine = (f"modelfleet-{account}", f"modelfleet-{account}-secrets")
        return [r for r in self.roles if r["metadata"]["name"] in mine]

    @contextmanager
    def taken(self, account: str, *rights: Right) -> Iterator[None]:
        """The account without these rights, for as long as the block runs."""
        assert rights
        assert set(rights) <= self.granted(account), rights
        self._taken[account] |= set(rights)
        self._put(account, rights)
        try:
            yield
        finally:
            self._taken[account] -= set(rights)
            self._put(account, rights)

    def _put(self, account: str, changed: Iterable[Right]) -> None:
        for role in self.roles_of(account):
            meta, kind = role["metadata"], role["kind"].lower() + "s"
            place = f"namespaces/{meta['namespace']}/{kind}" if "namespace" in meta else kind
            bare = {k: v for k, v in meta.items() if k in ("name", "namespace", "labels", "annotations")}
            self.call("PUT", f"/apis/rbac.authorization.k8s.io/v1/{place}/{meta['name']}", {**without(role, self._taken[account]), "metadata": bare})
        for right in changed:  # the authorizer follows a watch: ask until it knows
            until(lambda right=right: self.may(account, right) is (right not in self._taken[account]), f"the authorizer to hear of {account}, {right}")

    def may(self, account: str, right: Right) -> bool:
        plural, _, sub = right.resource.partition("/")
        named = plural == "leases" and right.verb != "create"
        what = {"group": right.group, "resource": plural, "subresource": sub, "verb": right.verb}
        what |= {"namespace": {"leases": NAMESPACE, "secrets": "demo"}.get(plural, ""), "name": "modelfleet-operator" if named else ""}
        answer = self.call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": {"user": self.user(account), "resourceAttributes": what}})
        return bool(answer["status"].get("allowed", False))

    # -- processes ---------------------------------------------------------------------------------------------------

    def user(self, account: str) -> str:
        return f"system:serviceaccount:{NAMESPACE}:modelfleet-{account}"

    def kubeconfig(self, account: str) -> Path:
        """A kubeconfig with a fresh token of the account."""
        config = yaml.safe_load(self.server.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": self.server.kubectl("create", "token", f"modelfleet-{account}", "-n", NAMESPACE, check=True).stdout.strip()}
        path = self.folder / f"{account}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path

    @contextmanager
    def running(self, command: str, account: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """``modelfleet <command>`` as the account, killed at the end: nothing here needs a clean stop."""
        kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith(("MODELFLEET_", "KUBE"))}
        place = {"POD_NAME": f"modelfleet-{account}-0", "POD_NAMESPACE": NAMESPACE, "MODELFLEET_KUBECONFIG": str(self.kubeconfig(account))}
        argv = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "modelfleet", command]
        with self.log(command).open("ab") as log:
            process = subprocess.Popen(argv, env=kept | place | settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def log(self, command: str) -> Path:
        return self.folder / f"{command}.log"

    # -- what the API server saw -------------------------------------------------------------------------------------

    def events(self, account: str) -> list[dict[str, Any]]:
        """Audit events of the account so far; complete lines only."""
        with self.server.audit_log.open("rb") as log:
            log.seek(self._read)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        self._events += [json.loads(line) for line in whole.splitlines()]
        return [e for e in self._events if e["user"]["username"] == self.user(account)]

    def used(self, account: str) -> set[Right]:
        """The rights that answered requests made use of. Server-side apply that makes an object uses `create` beside `patch`."""
        rights: set[Right] = set()
        for event in self.events(account):
            target, code = event.get("objectRef"), event.get("responseStatus", {}).get("code", 0)
            if target is None or code in (401, 403):
                continue
            resource = "/".join(filter(None, (target["resource"], target.get("subresource"))))
            rights.add(Right(target.get("apiGroup", ""), resource, event["verb"]))
            if event["verb"] == "patch" and code == 201:
                rights.add(Right(target.get("apiGroup", ""), resource, "create"))
        return rights

    def refused(self, account: str) -> dict[Right, str]:
        """The rights that were asked for in vain, and the API server's words."""
        found: dict[Right, str] = {}
        for event in self.events(account):
            status = event.get("responseStatus", {})
            if status.get("code") != 403:
                continue
            message = status.get("message", "")
            if match := _REFUSED.search(message):
                found[Right(match["group"], match["resource"], match["verb"])] = message
            elif _OWNER in message:
                found[Right("modelfleet.dev", "modelpools/finalizers", "update")] = message
        return found
