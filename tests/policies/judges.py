"""Two judges of an object's health, as GitOps controllers compute it: kstatus (Flux) and our Lua in the way Argo CD runs it.

`kstatus` restates the rules of `status.Compute` in sigs.k8s.io/cli-utils `pkg/kstatus/status` (`status.go`, `generic.go`), which Flux's controllers use
through their fork fluxcd/cli-utils, for kinds that have no rules of their own there. `ArgoCD` follows `util/lua/lua.go` of argoproj/argo-cd: the script
is a chunk with a global `obj`, which has the base, package and table libraries (no strings, no files) and must return a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lupa.lua51
import yaml

ARGO_STATUSES = {"Healthy", "Progressing", "Degraded", "Suspended", "Missing", "Unknown"}


def kstatus(obj: Mapping[str, Any]) -> str:
    """InProgress, Failed, Current or Terminating, by the first rule that applies."""
    metadata, status = obj["metadata"], obj.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    if "generation" in metadata and "observedGeneration" in status and status["observedGeneration"] != metadata["generation"]:
        return "InProgress"
    conditions = status.get("conditions") or []
    for condition in conditions:
        if condition["type"] == "Reconciling" and condition["status"] == "True":
            return "InProgress"
        if condition["type"] == "Stalled" and condition["status"] == "True":
            return "Failed"
    for condition in conditions:
        if condition["type"] == "Ready":
            return "Current" if condition["status"] == "True" else "InProgress"
    return "Current"


class ArgoCD:
    """The health checks of one argocd-cm."""

    def __init__(self, config: Path) -> None:
        self.scripts: dict[str, str] = yaml.safe_load(config.read_text())["data"]

    def health(self, obj: Mapping[str, Any]) -> tuple[str, str]:
        """Status and message; fails on what Argo CD would call an error or an unknown status."""
        group = obj["apiVersion"].partition("/")[0]
        lua = lupa.lua51.LuaRuntime(register_eval=False, register_builtins=False)
        scope = lua.globals()
        for library in ("string", "math", "io", "os", "debug", "python", "coroutine"):
            scope[library] = None
        scope.obj = _as_table(lua, obj)
        answer = lua.execute(self.scripts[f"resource.customizations.health.{group}_{obj['kind']}"])
        assert lupa.lua51.lua_type(answer) == "table", answer
        assert answer.status in ARGO_STATUSES, answer.status
        assert isinstance(answer.message, str)
        return answer.status, answer.message


def _as_table(lua: Any, value: Any) -> Any:
    """JSON as Lua values: null is nil, lists count from one, every number is a number."""
    if isinstance(value, Mapping):
        return lua.table_from({key: _as_table(lua, item) for key, item in value.items() if item is not None})
    if isinstance(value, list):
        return lua.table_from([_as_table(lua, item) for item in value])
    return value
