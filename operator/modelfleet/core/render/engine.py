"""The model server of a flavor: image, command line, environment, port and volumes, from the pool's engine and the flavor's overrides.

Decided here: how LlamaCpp and VLLM are started (Custom is started as it says itself) and where a model source is found
inside the pod. Root file systems are read-only, so every cache lives under ``/tmp``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, assert_never

from modelfleet.api.v1alpha1 import ModelPool
from modelfleet.api.v1alpha1.modelpool import Engine, Flavor

from .quantity import canonical_quantity

__all__ = ["Server", "server_of"]

MODELS: Final = "/models"
DEFAULT_PORTS: Final = {"LlamaCpp": 8080, "VLLM": 8000, "Custom": 8080}
CACHES: Final = {"HOME": "/tmp", "HF_HOME": "/tmp/huggingface", "LLAMA_CACHE": "/tmp/llama.cpp", "XDG_CACHE_HOME": "/tmp/cache"}  # noqa: S108 - an emptyDir of the pod


@dataclass(frozen=True, slots=True)
class Server:
    """What runs in the container. ``volumes`` and ``mounts`` beside ``/tmp``; ``requests`` and ``limits`` without devices."""

    image: str
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    port: int
    health_path: str
    volumes: tuple[Mapping[str, Any], ...] = ()
    mounts: tuple[Mapping[str, Any], ...] = ()
    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)


def server_of(pool: ModelPool, engine: Engine, flavor: Flavor, images: Mapping[str, str]) -> Server:
    """The model server of a pod flavor. An image is the flavor's, else the pool's, else the installation's for the engine type."""
    override = flavor.engine
    port = engine.port or DEFAULT_PORTS[engine.type]
    volumes, mounts = _volumes(pool.spec.model.source, engine.type)
    requests, limits = _resources(engine, flavor)
    return Server(
        image=(override.image if override else None) or engine.image or images.get(engine.type, ""),
        args=(*_command_line(pool, engine, flavor, port), *(engine.args or ()), *((override.args if override else None) or ())),
        env=_environment(engine, flavor),
        port=port,
        health_path=engine.health_path,
        volumes=volumes,
        mounts=mounts,
        requests=requests,
        limits=limits,
    )


def _command_line(pool: ModelPool, engine: Engine, flavor: Flavor, port: int) -> list[str]:
    model, source = pool.spec.model, pool.spec.model.source
    match engine.type:
        case "LlamaCpp":
            where = ["-hf", source.removeprefix("hf://")] if source.startswith("hf://") else ["--model", _path(source)]
            args = [*where, "--alias", model.name, "--host", "0.0.0.0", "--port", str(port), "--metrics"]
            if flavor.capacity and flavor.capacity.concurrency:
                args += ["--parallel", str(flavor.capacity.concurrency)]
            return args
        case "VLLM":
            place = source.removeprefix("hf://").partition(":")[0] if source.startswith("hf://") else _path(source)
            return ["--model", place, "--served-model-name", model.name, "--host", "0.0.0.0", "--port", str(port)]
        case "Custom":
            return []
        case never:
            assert_never(never)


def _path(source: str) -> str:
    scheme, _, rest = source.partition("://")
    if scheme == "pvc":
        return f"{MODELS}/{rest.partition('/')[2].lstrip('/')}"
    return "/" + rest.lstrip("/")


def _volumes(source: str, engine: str) -> tuple[tuple[Mapping[str, Any], ...], tuple[Mapping[str, Any], ...]]:
    volumes: list[Mapping[str, Any]] = []
    mounts: list[Mapping[str, Any]] = []
    if source.startswith("pvc://"):
        claim = source.removeprefix("pvc://").partition("/")[0]
        volumes.append({"name": "models", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        mounts.append({"name": "models", "mountPath": MODELS, "readOnly": True})
    if engine == "VLLM":
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - tensor-parallel workers talk through it
    return tuple(volumes), tuple(mounts)


def _environment(engine: Engine, flavor: Flavor) -> tuple[tuple[str, str], ...]:
    values = dict(CACHES)
    for variables in (engine.env, flavor.engine.env if flavor.engine else None):
        values.update({v.name: v.value for v in variables or ()})
    return tuple(sorted(values.items()))


def _resources(engine: Engine, flavor: Flavor) -> tuple[dict[str, str], dict[str, str]]:
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    for resources in (engine.resources, flavor.engine.resources if flavor.engine else None):
        if resources is not None:
            requests.update({str(k): canonical_quantity(v) for k, v in (resources.requests or {}).items()})
            limits.update({str(k): canonical_quantity(v) for k, v in (resources.limits or {}).items()})
    return requests, limits
