"""The ledger of free slots while one plan is made: what is free, and what pools planned so far have taken of it.

A slot is room for one replica on one node: floor(free units / units per replica), node by node, since a replica does not
span nodes. The ledger lives within one call of ``place_fleet`` and is its only mutable state. It writes down what a pool asked
of it and was answered: a pool that asks the same questions and hears the same answers decides the same, so that its draws may
stand for planning it again (``replay``).
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop
from typing import Literal

from modelfleet.core.catalogue.offers import Catalogue

__all__ = ["Draw", "Room", "Slots"]

Draw = tuple[Literal["count", "take", "release", "room"], str, int, int, object]
"""What was asked, class, units, replicas (of a count: the most it was asked for), and the answer."""


@dataclass(frozen=True, slots=True)
class Room:
    """What is said of a class that takes no more replicas: whether it has nodes, its whole devices, and whether a replica fitted on one before this plan."""

    nodes: bool = False
    free_devices: int = 0
    allocatable_devices: int = 0
    fits: bool = False


class Slots:
    """Free units by class and node, and the reservations made on them by owner (a pool's key)."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._offers = catalogue.classes
        self._free = {name: {n.node: n.free for n in offer.nodes if n.resource == offer.resource and n.free > 0} for name, offer in catalogue.classes.items()}
        self._taken: dict[str, list[tuple[str, str, int]]] = {}
        self._counts: dict[str, dict[int, int]] = {}
        self._draws: list[Draw] = []
        self._asked: set[Draw] = set()

    def begin(self) -> None:
        """Forget the draws so far: those of the next pool begin."""
        self._draws, self._asked = [], set()

    @property
    def draws(self) -> tuple[Draw, ...]:
        """What was asked since ``begin``, in order; what was asked twice of an unchanged ledger stands there once."""
        return tuple(self._draws)

    def count(self, class_name: str, units: int, most: int) -> int:
        """Replicas of ``units`` each that still fit on nodes of the class, up to ``most``: who asks for no more than it needs need not be asked again."""
        answer = min(most, self._count(class_name, units))
        self._note(("count", class_name, units, most, answer))
        return answer

    def room(self, class_name: str, units: int) -> Room:
        """What the class offered before anybody drew on it."""
        answer = self._room(class_name, units)
        self._note(("room", class_name, units, 0, answer))
        return answer

    def take(self, owner: str, class_name: str, units: int, replicas: int) -> int:
        """Reserve up to ``replicas`` slots, fullest node first so that large replicas keep their room; answers how many it got."""
        taken = self._take(owner, class_name, units, replicas)
        self._change(("take", class_name, units, replicas, taken))
        return taken

    def release(self, owner: str) -> None:
        """Give back everything the owner reserved."""
        if self._release(owner):
            self._change(("release", "", 0, 0, True))

    def replay(self, owner: str, draws: tuple[Draw, ...]) -> bool:
        """Draw once more what was drawn for an owner. False, and the owner has nothing reserved, when an answer is another one by now."""
        for what, class_name, units, replicas, answer in draws:
            match what:
                case "count":
                    same = min(replicas, self._count(class_name, units)) == answer
                case "room":
                    same = self._room(class_name, units) == answer
                case "take":
                    same = self._take(owner, class_name, units, replicas) == answer
                case _:
                    same = self._release(owner)
            if not same:
                self._release(owner)
                return False
        return True

    def _note(self, draw: Draw) -> None:
        if draw not in self._asked:
            self._asked.add(draw)
            self._draws.append(draw)

    def _change(self, draw: Draw) -> None:
        self._asked.clear()
        self._draws.append(draw)

    def _count(self, class_name: str, units: int) -> int:
        known = self._counts.setdefault(class_name, {})
        if units not in known:
            known[units] = sum(free // units for free in self._free.get(class_name, {}).values())
        return known[units]

    def _room(self, class_name: str, units: int) -> Room:
        offer = self._offers.get(class_name)
        if offer is None:
            return Room()
        return Room(bool(offer.nodes), offer.free_devices, offer.allocatable_devices, any(n.free >= units for n in offer.nodes))

    def _take(self, owner: str, class_name: str, units: int, replicas: int) -> int:
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
        if taken:
            self._counts.pop(class_name, None)
        return taken

    def _release(self, owner: str) -> bool:
        taken = self._taken.pop(owner, [])
        for class_name, node, units in taken:
            self._free[class_name][node] += units
            self._counts.pop(class_name, None)
        return bool(taken)
