"""The ledger of free slots while one plan is made: what is free, and what pools planned so far have taken of it.

A slot is room for one replica on one node: floor(free units / units per replica), node by node, since a replica does not
span nodes. The ledger lives within one call of ``place_fleet`` and is its only mutable state.
"""

from __future__ import annotations

from heapq import heapify, heappop

from modelfleet.core.catalogue.offers import Catalogue

__all__ = ["Slots"]


class Slots:
    """Free units by class and node, and the reservations made on them by owner (a pool's key)."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._free = {name: {n.node: n.free for n in offer.nodes if n.resource == offer.resource and n.free > 0} for name, offer in catalogue.classes.items()}
        self._taken: dict[str, list[tuple[str, str, int]]] = {}

    def count(self, class_name: str, units: int) -> int:
        """Replicas of ``units`` each that still fit on nodes of the class."""
        return sum(free // units for free in self._free.get(class_name, {}).values())

    def take(self, owner: str, class_name: str, units: int, replicas: int) -> int:
        """Reserve up to ``replicas`` slots, fullest node first so that large replicas keep their room; answers how many it got."""
        nodes = self._free.get(class_name, {})
        taken = 0
        fitting = [(free, node) for node, free in nodes.items() if free >= units]
        heapify(fitting)
        while fitting and taken < replicas:
            free, node = heappop(fitting)
            here = min(replicas - taken, free // units)
            nodes[node] -= here * units
            self._taken.setdefault(owner, []).append((class_name, node, here * units))
            taken += here
        return taken

    def release(self, owner: str) -> None:
        """Give back everything the owner reserved."""
        for class_name, node, units in self._taken.pop(owner, []):
            self._free[class_name][node] += units
