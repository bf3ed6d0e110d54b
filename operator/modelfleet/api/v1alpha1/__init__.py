"""The kinds of ``modelfleet.dev/v1alpha1``."""

from .acceleratorclass import AcceleratorClass
from .agentteam import AgentTeam
from .common import API_VERSION, GROUP, VERSION, Kind
from .modelpool import ModelPool
from .routingpolicy import RoutingPolicy

__all__ = ["API_VERSION", "GROUP", "KINDS", "VERSION", "AcceleratorClass", "AgentTeam", "Kind", "ModelPool", "RoutingPolicy"]

KINDS: tuple[type[Kind], ...] = (AcceleratorClass, AgentTeam, ModelPool, RoutingPolicy)
