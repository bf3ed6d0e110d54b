"""The kinds of ``modelfleet.dev/v1alpha1``."""

from .acceleratorclass import AcceleratorClass
from .common import API_VERSION, GROUP, VERSION, Kind
from .modelpool import ModelPool
from .routingpolicy import RoutingPolicy

__all__ = ["API_VERSION", "GROUP", "KINDS", "VERSION", "AcceleratorClass", "Kind", "ModelPool", "RoutingPolicy"]

KINDS: tuple[type[Kind], ...] = (AcceleratorClass, ModelPool, RoutingPolicy)
