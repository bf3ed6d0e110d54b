"""YAML or JSON of unknown origin -> its documents.

Decided here: what of YAML is refused because it ends no process well: nesting deeper than any Kubernetes object (the C reader recurses
without a bound) and merge keys that grow without one. Not decided here: what a document means, or how a problem is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import yaml

__all__ = ["UNREADABLE", "read_documents"]

UNREADABLE: Final = (OSError, yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What reading raises: PyYAML's constructors let the errors of Python through (``2021-13-45``, ``0x_``, ``!!bool x``)."""

_DEEPEST: Final = 100
_MOST_MERGED: Final = 100_000
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE: Final = "tag:yaml.org,2002:merge"


class _Loader(_BASE):  # type: ignore[misc]
    """The safe loader, which gives up on merge keys that multiply."""

    merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, value in node.value:
            if key.tag == _MERGE:
                self._count(value)
        super().flatten_mapping(node)

    def _count(self, value: yaml.Node) -> None:
        for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if isinstance(part, yaml.MappingNode):
                self.flatten_mapping(part)
                self.merged += len(part.value)
        if self.merged > _MOST_MERGED:
            raise yaml.constructor.ConstructorError(problem=f"merge keys bring in more than {_MOST_MERGED} entries")


def read_documents(text: str) -> Iterator[Any]:
    """The documents, up to the first that cannot be read. Raises one of UNREADABLE there."""
    readable, problem = _readable(text)
    loader = _Loader(text)
    try:
        while readable != 0 and loader.check_data():
            yield loader.get_data()
            readable -= 1
    finally:
        loader.dispose()
    if problem:
        raise ValueError(problem)


def _readable(text: str) -> tuple[int, str]:
    """How many documents may be built (-1: all), and why the next may not. What is no YAML at all is left to the loader to tell."""
    depth = documents = 0
    try:
        for event in yaml.parse(text, Loader=_BASE):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _DEEPEST:
                    return documents, f"document {documents + 1} is nested deeper than {_DEEPEST}"
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif isinstance(event, yaml.DocumentEndEvent):
                documents += 1
    except yaml.YAMLError:
        return -1, ""
    return -1, ""
