"""RoutingPlan: what policies mean, between the objects users write and the bytes Envoy reads.

``compile.py`` makes it, ``xds/`` turns it into Envoy resources, ``decide.py`` answers one request from it. Plain data, sorted, hashable by content.

Words. A *cluster* is what Envoy balances over: the pods of a pool (one cluster, endpoints carry their flavor), or one remote endpoint.
A *group* is a step of the retry chain and holds one cluster. A *candidate* expands into its pool's groups: pods first while any is ready, remote endpoints in
flavor order behind them; remote endpoints first while no pod is ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelfleet.api.v1alpha1 import ModelPool, RoutingPolicy
from modelfleet.api.v1alpha1.routingpolicy import Capabilities, FallbackTrigger, Rule

from .egress import Egress

__all__ = [
    "Address",
    "CandidatePlan",
    "EntrypointPlan",
    "EntrypointRoute",
    "PodCluster",
    "PolicyPlan",
    "Price",
    "Problem",
    "RemoteCluster",
    "RoutingPlan",
    "RoutingWorld",
    "SecretRef",
    "TeamRoute",
    "Watchwords",
]


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """One ready model-server pod. ``weight`` is its share of new requests, 1-128 (from declared tokens per second)."""

    host: str
    port: int
    flavor: str
    weight: int = 1


@dataclass(frozen=True, slots=True, order=True)
class SecretRef:
    """One key of one Secret; the value never enters a plan."""

    namespace: str
    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Price:
    """What a flavor charges, micro-dollars per million tokens."""

    input_per_million: int
    output_per_million: int


@dataclass(frozen=True, slots=True)
class TeamRoute:
    """The model names of one team, and where its roles' calls may go (``pool:<ns>/<name>``, ``policy:<ns>/<name>``). ``version`` digests what was written."""

    team: str
    names: tuple[str, ...]
    generation: int
    version: str
    targets: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Among the policies of a plan."""
        return f"team:{self.team}"


@dataclass(frozen=True, slots=True)
class RoutingWorld:
    """What compile may depend on. ``addresses``: pool key -> ready addresses, sorted.

    ``teams`` and ``team_addresses``: the names that the team runtime answers for, and its ready addresses.
    ``secrets``: refs whose value is at hand; ``egress``: where endpoints may point (None: not known, as in the operator).
    ``barred``: (pool key, flavor) of endpoints whose name was seen to lead where it may not.
    """

    pools: tuple[ModelPool, ...] = ()
    policies: tuple[RoutingPolicy, ...] = ()
    addresses: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    secrets: frozenset[SecretRef] | None = None
    egress: Egress | None = None
    barred: frozenset[tuple[str, str]] = frozenset()
    teams: tuple[TeamRoute, ...] = ()
    team_addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class PodCluster:
    """The pods of one pool. ``concurrency``: requests in parallel over ready replicas (0: undeclared). ``upstream_model``: the name they serve.

    ``flavors``: all whose pods may ever be among them.

    ``max_requests``: Envoy's safety net, four times what the wanted replicas take, from the spec alone so that pods that come and go never move it.
    """

    name: str
    pool: str
    upstream_model: str
    addresses: tuple[Address, ...]
    concurrency: int = 0
    max_requests: int = 4096
    flavors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteCluster:
    """One remote endpoint flavor. ``secret`` None: no key is sent."""

    name: str
    pool: str
    flavor: str
    host: str
    port: int
    tls: bool
    path_prefix: str
    upstream_model: str
    concurrency: int
    secret: SecretRef | None = None


@dataclass(frozen=True, slots=True)
class CandidatePlan:
    """A candidate of a policy. ``groups``: names of its pool's groups in the order they are tried now; empty: it cannot serve (``unusable`` says why)."""

    name: str
    pool: str
    groups: tuple[str, ...]
    capabilities: Capabilities
    unusable: str = ""


@dataclass(frozen=True, slots=True)
class Watchwords:
    """What a compiled route must not carry unseen: True where some candidate in reach cannot do it. ``limit``: the smallest context in tokens, 0 none."""

    tools: bool = False
    json: bool = False
    images: bool = False
    limit: int = 0


@dataclass(frozen=True, slots=True)
class EntrypointRoute:
    """What Envoy can match by itself of one entrypoint: ``headers`` that must all be there, and the answer that holds for every such request.

    ``needs_decider``: the answer depends on more. Else ``chain`` (candidates) and ``groups`` (with their clusters, the chain's first) are what
    ``decide`` would answer, unless the request shows one of ``watchwords``: then it is asked after all.
    """

    headers: tuple[tuple[str, str], ...] = ()
    rule: str = ""
    needs_decider: bool = True
    chain: tuple[str, ...] = ()
    groups: tuple[tuple[str, str], ...] = ()
    watchwords: Watchwords = Watchwords()


@dataclass(frozen=True, slots=True)
class EntrypointPlan:
    """A public model name of a policy, and the rule it pins if any. ``routes`` are tried in order; the last one takes every request."""

    name: str
    rule: str | None = None
    routes: tuple[EntrypointRoute, ...] = (EntrypointRoute(),)


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """One policy, ready to be programmed and to decide from. Times in seconds. ``version`` digests this policy's slice alone.

    ``static_chain``: group names of the default chain, cut or padded to ``max_attempts`` under unique names (``<group>#2``).
    ``groups``: every group the decider may name, mapped to its cluster, the static chain's first. ``granted``: the target of a team's role under a name of
    its own (its key): each call needs a grant for it, and nothing is repeated that may have been billed.
    """

    key: str
    generation: int
    version: str
    entrypoints: tuple[EntrypointPlan, ...]
    candidates: tuple[CandidatePlan, ...]
    default_chain: tuple[str, ...]
    rules: tuple[Rule, ...]
    static_chain: tuple[str, ...]
    groups: tuple[tuple[str, str], ...]
    refuse_when_decider_lost: bool
    triggers: tuple[FallbackTrigger, ...]
    max_attempts: int
    first_byte_timeout: float
    total_timeout: float
    granted: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """Something compile found wrong with a policy: ``type`` is the condition (Accepted, ResolvedRefs), ``reason`` a RoutingPolicyReason."""

    policy: str
    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RoutingPlan:
    """Every policy of one gateway. ``prices``: (pool key, flavor) -> Price, from pool status.

    ``dropped``: endpoints behind some policy that no chain holds, since their Secret is missing or they point where they may not.
    ``teams``: names that lead to the team runtime, whose addresses are ``team_addresses``.
    """

    version: str
    policies: tuple[PolicyPlan, ...] = ()
    pod_clusters: tuple[PodCluster, ...] = ()
    remote_clusters: tuple[RemoteCluster, ...] = ()
    dropped: tuple[RemoteCluster, ...] = ()
    problems: tuple[Problem, ...] = ()
    prices: Mapping[tuple[str, str], Price] = field(default_factory=dict)
    teams: tuple[TeamRoute, ...] = ()
    team_addresses: tuple[Address, ...] = ()
