"""The command `catalogue match`: what the Nodes and ResourceSlices in files have. Reads files only: no cluster is asked.

One row per object, in the order given. A file's name is printed without its folder where that tells it apart, and with `#` and the
object's name where a file holds several. What cannot be read is told on stderr, one line each, and does not hide the rest.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelfleet.core.catalogue.facts import UNKNOWN, Malformed, Recognition, shown
from modelfleet.core.catalogue.recognise import recognise

from .documents import UNREADABLE, read_documents
from .fleet import print_json

__all__ = ["match"]

COLUMNS: Final = ("file", "class", "devices", "memory_gib")
_STDIN: Final = Path("-")
_LONGEST_NAME: Final = 253


@dataclass(frozen=True, slots=True)
class _Found:
    file: str
    recognition: Recognition


def match(files: Sequence[Path], *, as_csv: bool, as_json: bool) -> int:
    """Print a row per object of ``files`` (files, folders or ``-``); returns 1 if any could not be read, else 0."""
    found: list[_Found] = []
    problems: list[str] = []
    paths = []
    for file in files:
        try:
            paths += _expanded(file)
        except OSError as error:
            problems.append(f"{file}: not readable: {_first_line(error)}")
    shown = _names(paths)
    for path in paths:
        objects: list[Any] = []
        try:
            objects.extend(_objects(path))  # what was read before an error stays
        except UNREADABLE as error:
            problems.append(f"{path}: not readable as YAML or JSON: {_first_line(error)}")
            if not objects:
                continue
        if not objects:
            problems.append(f"{path}: holds no object: give a Node or a ResourceSlice, such as `kubectl get node NAME -o yaml` prints")
        for label, raw in zip(_labels(shown[path], objects), objects, strict=True):
            try:
                found.append(_Found(label, recognise(_mapping(raw))))
            except Malformed as error:
                problems.append(f"{path if label == shown[path] else label}: {error}")
    _print(found, as_csv=as_csv, as_json=as_json)
    for problem in problems:
        sys.stderr.write(f"error: {_printable(problem)}\n")
    return 1 if problems else 0


def _expanded(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml", ".json")) if path.is_dir() else [path]


def _objects(path: Path) -> Iterator[Any]:
    """The objects of a file; those of a List one by one."""
    text = sys.stdin.read() if path == _STDIN else path.read_text(encoding="utf-8")
    for document in read_documents(text):
        if document is None:
            continue
        named = document.get("kind") if isinstance(document, Mapping) else None
        items = document.get("items") if isinstance(named, str) and named.endswith("List") else None
        if not isinstance(items, list) or not isinstance(named, str):
            yield document
            continue
        kind = named.removesuffix("List")
        yield from ({"kind": kind, **item} if isinstance(item, Mapping) and kind else item for item in items)


def _mapping(raw: Any) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise Malformed(f"{shown(raw)} is no object: give a Node or a ResourceSlice")
    return raw


def _names(paths: Iterable[Path]) -> dict[Path, str]:
    """Paths as they are printed: bare names, unless two files have the same."""
    listed = list(dict.fromkeys(paths))
    times = Counter(p.name for p in listed)
    return {p: p.name if times[p.name] == 1 else str(p) for p in listed}


def _labels(file: str, objects: Sequence[Any]) -> list[str]:
    if len(objects) == 1:
        return [file]
    names = [_name(o) for o in objects]
    times = Counter(names)
    return [f"{file}#{name if name and times[name] == 1 else index}" for index, name in enumerate(names, start=1)]


def _name(raw: Any) -> str:
    metadata = raw.get("metadata") if isinstance(raw, Mapping) else None
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    return name[:_LONGEST_NAME] if isinstance(name, str) else ""


def _print(found: Sequence[_Found], *, as_csv: bool, as_json: bool) -> None:
    rows = [(_printable(f.file), f.recognition.part, _count(f.recognition.devices), _gib(f.recognition.memory_gib)) for f in found]
    if as_json:
        print_json([_twin(f) for f in found])
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    elif rows:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name in COLUMNS:
            table.add_column(name.upper().replace("_", " "), no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row))  # names are no markup
        Console().print(table)


def _twin(found: _Found) -> dict[str, Any]:
    r = found.recognition
    memory = None if r.memory_gib is None else float(r.memory_gib)
    return {"file": _printable(found.file), "class": r.part, "devices": r.devices, "memory_gib": memory, "unit": r.unit, "profile": r.profile}


def _printable(text: str) -> str:
    """Control characters and halves of surrogate pairs as escapes: a name must not steer a terminal, nor break a line in two."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _count(devices: int | None) -> str:
    return UNKNOWN if devices is None else str(devices)


def _gib(memory: Decimal | None) -> str:
    return UNKNOWN if memory is None else f"{memory:f}".removesuffix(".0")


def _first_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200]
