"""Templates of chain steps: what they may name, and their text once the named outputs are there.

``${input}``, ``${steps.NAME.output}`` and ``${steps.NAME.output.FIELD}``. Decided here: the grammar and how a value becomes text.
Not decided here: which steps a template may name (the compiler) and how long an output may be (the strategy).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from modelfleet.core.teams.schema import canonical

__all__ = ["Placeholder", "Template", "TemplateError", "parse_template", "placeholders", "render", "text_of"]


class TemplateError(ValueError):
    """A template that cannot be read; the message quotes the placeholder and says what may stand there."""


@dataclass(frozen=True, slots=True)
class Placeholder:
    """One ``${...}``. ``step`` None: the task's input. ``field`` None: the step's whole output."""

    step: str | None = None
    field: str | None = None


Template = tuple[str | Placeholder, ...]

_MARK = re.compile(r"\$\{([^}]*)(\}?)")
_STEP = re.compile(r"steps\.([a-z0-9](?:[-a-z0-9]*[a-z0-9])?)\.output(?:\.([A-Za-z_][A-Za-z0-9_]*))?")


@lru_cache(maxsize=1024)
def parse_template(text: str) -> Template:
    """The parts of a template in order. Raises TemplateError."""
    parts: list[str | Placeholder] = []
    end = 0
    for mark in _MARK.finditer(text):
        parts += [text[end : mark.start()], _placeholder(mark[1], closed=bool(mark[2]))]
        end = mark.end()
    return tuple(part for part in [*parts, text[end:]] if part != "")


def placeholders(text: str) -> tuple[Placeholder, ...]:
    """What a template names, in order. Raises TemplateError."""
    return tuple(part for part in parse_template(text) if isinstance(part, Placeholder))


def render(template: Template, value: Callable[[Placeholder], str]) -> str:
    """The text, with ``value`` in the place of each placeholder. What is put in is not read again as a template."""
    return "".join(part if isinstance(part, str) else value(part) for part in template)


def text_of(value: Any) -> str:
    """A field's value as text: texts as they are, nothing as nothing, the rest as canonical JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else canonical(value)


def _placeholder(inside: str, *, closed: bool) -> Placeholder:
    if not closed:
        raise TemplateError(f"${{{inside[:80]} has no closing brace")
    if inside == "input":
        return Placeholder()
    step = _STEP.fullmatch(inside)
    if step is None:
        raise TemplateError(f"${{{inside[:80]}}} is not known: write ${{input}}, ${{steps.NAME.output}} or ${{steps.NAME.output.FIELD}}")
    return Placeholder(step[1], step[2])
