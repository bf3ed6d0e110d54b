"""Hostile requests, as raw bytes. One seed is one request, on every machine.

Families: bodies that are no JSON or no object; fields of wrong types and out of range; duplicate, deep, huge bodies; forged headers of ours and of Envoy's;
header injection; methods and paths; content types and encodings; framing (lengths, chunks, smuggling); what is not HTTP at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.hostile import bodies, framing, heads
from tests.hostile.wire import Made, Meant


@dataclass(frozen=True)
class Shot:
    """One request. ``half_close``: the client sends no more after this, for what would otherwise be waited for."""

    seed: int
    like: str
    meant: Meant
    raw: bytes
    half_close: bool = False


def shot(seed: int) -> Shot:
    """The request of a seed."""
    chance = random.Random(f"request/{seed}")
    family = chance.choices(list(FAMILIES), weights=[weight for weight, _ in FAMILIES.values()])[0]
    meant, raw, half_close = FAMILIES[family][1](chance)
    return Shot(seed, family, meant, raw, half_close)


FAMILIES: Mapping[str, tuple[int, Callable[[random.Random], Made]]] = {
    "garbage": (10, bodies.garbage), "cut-short": (10, bodies.cut_short), "no-object": (3, bodies.no_object), "wrong-types": (25, bodies.wrong_types),
    "wrong-messages": (12, bodies.wrong_messages), "other-models": (7, bodies.other_models), "out-of-range": (4, bodies.out_of_range),
    "twice": (5, bodies.twice), "deep": (3, bodies.deep), "huge": (2, bodies.huge), "forged": (22, heads.forged), "forged-grant": (6, heads.forged_grant),
    "strangers": (10, heads.strangers), "injected": (5, heads.injected), "too-many-headers": (1, heads.too_many_headers), "methods": (5, heads.methods),
    "odd-methods": (3, heads.odd_methods), "paths": (9, heads.paths), "odd-paths": (3, heads.odd_paths), "content-types": (5, heads.content_types),
    "no-content-type": (1, heads.no_content_type), "encodings": (3, heads.encodings), "lengths": (3, framing.lengths), "too-long": (1, framing.too_long),
    "chunks": (3, framing.chunks), "good-chunks": (4, framing.good_chunks), "smuggling": (3, framing.smuggling), "versions": (3, framing.versions),
    "hosts": (3, framing.hosts), "noise": (3, framing.noise),
}  # fmt: skip
