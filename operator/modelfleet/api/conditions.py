"""Condition types and reasons, one enum per kind. A reason written anywhere else is a bug."""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "AcceleratorClassReason",
    "AgentTeamReason",
    "ConditionType",
    "DecisionReason",
    "EventReason",
    "FlavorReason",
    "ModelPoolReason",
    "RoutingPolicyReason",
]


class ConditionType(StrEnum):
    """Every condition type we write."""

    READY = "Ready"
    PROGRESSING = "Progressing"
    RECONCILING = "Reconciling"
    DEGRADED = "Degraded"
    STALLED = "Stalled"
    PAUSED = "Paused"
    PLACED = "Placed"
    WORKLOADS_READY = "WorkloadsReady"
    ENDPOINTS_REACHABLE = "EndpointsReachable"
    ACCEPTED = "Accepted"
    RESOLVED_REFS = "ResolvedRefs"
    PROGRAMMED = "Programmed"
    PRICED = "Priced"


class FlavorReason(StrEnum):
    """Why a flavor of a pool is where it is (``status.flavors[].reason``)."""

    PREFERRED = "Preferred"
    FALLBACK = "Fallback"
    STANDBY = "Standby"
    NO_FREE_DEVICE = "NoFreeDevice"
    PENDING_TIMEOUT = "PendingTimeout"
    WAITING_TO_RETURN = "WaitingToReturn"
    MIGRATING_BACK = "MigratingBack"
    DRAINING = "Draining"
    AT_MAX = "AtMax"
    CLASS_NOT_FOUND = "ClassNotFound"
    NO_MATCHING_NODES = "NoMatchingNodes"
    QUOTA_EXCEEDED = "QuotaExceeded"
    PODS_REFUSED = "PodsRefused"
    CRASH_LOOPING = "CrashLooping"
    ROLLOUT_WAITS_FOR_DEVICE = "RolloutWaitsForDevice"
    KEY_REFUSED = "KeyRefused"
    UNREACHABLE = "Unreachable"
    RATE_LIMITED = "RateLimited"
    SECRET_MISSING = "SecretMissing"
    ENDPOINT_NOT_ALLOWED = "EndpointNotAllowed"


class ModelPoolReason(StrEnum):
    """Reasons of a ModelPool's conditions."""

    SERVING = "Serving"
    ENDPOINT_SERVING = "EndpointServing"
    NOTHING_READY = "NothingReady"
    SCALED_TO_ZERO = "ScaledToZero"
    CONVERGED = "Converged"
    CONVERGING = "Converging"
    ROLLOUT_WAITS_FOR_DEVICE = "RolloutWaitsForDevice"
    AS_PROMISED = "AsPromised"
    TOO_FEW_READY = "TooFewReady"
    INVALID_SPEC = "InvalidSpec"
    NO_USABLE_FLAVOR = "NoUsableFlavor"
    NOT_STALLED = "NotStalled"
    PAUSED_BY_ANNOTATION = "PausedByAnnotation"
    NOT_PAUSED = "NotPaused"
    ALL_PLACED = "AllPlaced"
    UNPLACED = "Unplaced"
    ALL_READY = "AllReady"
    STARTING = "Starting"
    REACHABLE = "Reachable"
    NO_ENDPOINTS = "NoEndpoints"
    NOT_OBSERVED = "NotObserved"


class EventReason(StrEnum):
    """Reasons of Events, beside the FlavorReasons that name a trouble."""

    FLAVOR_FALLBACK = "FlavorFallback"
    MIGRATING_BACK = "MigratingBack"
    MIGRATED_BACK = "MigratedBack"
    SCALED = "Scaled"
    NODE_MATCHED_TWICE = "NodeMatchedTwice"
    INVALID_SPEC = "InvalidSpec"
    COMPILED = "Compiled"
    REJECTED = "Rejected"


class AcceleratorClassReason(StrEnum):
    """Reasons of an AcceleratorClass's conditions."""

    NODES_MATCHED = "NodesMatched"
    NO_MATCHING_NODES = "NoMatchingNodes"
    INVALID_SPEC = "InvalidSpec"


class RoutingPolicyReason(StrEnum):
    """Reasons of a RoutingPolicy's conditions."""

    ACCEPTED = "Accepted"
    INVALID = "Invalid"
    ENTRYPOINT_CONFLICT = "EntrypointConflict"
    RESOLVED_REFS = "ResolvedRefs"
    POOL_NOT_FOUND = "PoolNotFound"
    SECRET_NOT_FOUND = "SecretNotFound"
    ACKNOWLEDGED = "Acknowledged"
    PENDING = "Pending"
    REJECTED = "Rejected"
    NO_GATEWAY = "NoGateway"


class AgentTeamReason(StrEnum):
    """Reasons of an AgentTeam's conditions."""

    ACCEPTED = "Accepted"
    INVALID_STRATEGY = "InvalidStrategy"
    INVALID_SCHEMA = "InvalidSchema"
    INVALID_SPEC = "InvalidSpec"
    SUSPENDED = "Suspended"
    RESOLVED_REFS = "ResolvedRefs"
    POOL_NOT_FOUND = "PoolNotFound"
    POLICY_NOT_FOUND = "PolicyNotFound"
    PRICED = "Priced"
    PRICE_UNKNOWN = "PriceUnknown"
    BUDGET_BELOW_MINIMUM = "BudgetBelowMinimum"
    PROGRAMMED = "Programmed"
    PENDING = "Pending"
    GATEWAY_REJECTED = "GatewayRejected"
    RUNTIME_UNAVAILABLE = "RuntimeUnavailable"
    NOT_STALLED = "NotStalled"
    READY = "Ready"
    ROLE_UNAVAILABLE = "RoleUnavailable"
    JOURNAL_READ_ONLY = "JournalReadOnly"
    CIRCUIT_OPEN = "CircuitOpen"
    AS_PROMISED = "AsPromised"


class DecisionReason(StrEnum):
    """Reason codes of one routing decision; each has one sentence in ``core/explain.py`` and one test."""

    RULE_MATCHED = "RuleMatched"
    RULE_NOT_MATCHED = "RuleNotMatched"
    RULE_PINNED = "RulePinned"
    DEFAULT_CHAIN = "DefaultChain"
    WEIGHTED = "Weighted"
    IN_LISTED_ORDER = "InListedOrder"
    CONTEXT_TOO_SMALL = "ContextTooSmall"
    NO_TOOLS = "NoTools"
    NO_JSON = "NoJson"
    NO_VISION = "NoVision"
    NOT_PROGRAMMED = "NotProgrammed"
    NO_CAPABLE_CANDIDATE = "NoCapableCandidate"
    MALFORMED_BODY = "MalformedBody"
    MODEL_MISMATCH = "ModelMismatch"
    BODY_CUT = "BodyCut"
    DECIDER_LOST = "DeciderLost"
    CUT_BY_MAX_ATTEMPTS = "CutByMaxAttempts"
    GRANT_INVALID = "GrantInvalid"
    GRANTED = "Granted"
    ABOVE_GRANT = "AboveGrant"
    COMPILED = "Compiled"
