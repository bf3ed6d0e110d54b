"""How a document is cut into the parts that a mapReduce reads, and how many parts there can be.

The number of chunks depends on the document's bytes alone, so that it is known before the text is: cuts lie at equal distances and move back by a few
bytes, to whitespace or to a character's border. Lines and the elements of a JSON array can only be bounded by the bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from modelfleet.api.v1alpha1.agentteam import Split

__all__ = ["BYTES_PER_TOKEN", "MalformedDocument", "PartBound", "part_bound", "split_document"]

BYTES_PER_TOKEN = 4
"""What English prose has. Chunks are sizes chosen by people, not promises: money is bounded by bytes elsewhere."""

_SEARCH = 128
"""The furthest a cut moves back to whitespace, bytes: hardly any word is longer. A chunk may exceed its size by as much."""
_BORDER = 3
"""The furthest a cut moves back to a character's first byte."""
_SPACE = b" \t\r\n"


class MalformedDocument(Exception):
    """A document that cannot be cut as the team says; ``message`` is for whoever sent it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class PartBound:
    """Of a document of known size: the most and fewest parts, and the most and fewest bytes of all parts together."""

    most: int
    fewest: int
    most_bytes: int
    fewest_bytes: int


def split_document(split: Split, document: str) -> tuple[str, ...]:
    """The parts in order; of a document that has more than ``split.max_items``, that many and one: it is not read further. Raises MalformedDocument."""
    return tuple(islice(_parts(split, document), split.max_items + 1))


def _parts(split: Split, document: str) -> Iterator[str]:
    match split.by:
        case "Chunk":
            return _chunks(split, document.encode("utf-8", "surrogatepass"))
        case "Lines":
            return _lines(document)
        case "JsonArray":
            return _elements(document)


def part_bound(split: Split, document_bytes: int) -> PartBound:
    """What ``split_document`` can give for a document of this many bytes, ``max_items`` apart."""
    if split.by == "Lines":
        return PartBound((document_bytes + 1) // 2, 0, document_bytes, 0)
    if split.by == "JsonArray":
        # brackets, and a comma between elements of at least one byte
        return PartBound(max(document_bytes - 1, 0) // 2, 0, document_bytes, 0)
    count = _chunk_count(split, document_bytes)
    overlap = split.overlap * BYTES_PER_TOKEN * max(count - 1, 0)
    return PartBound(count, count, document_bytes + overlap, document_bytes)


# --- chunks ---


def _sizes(split: Split) -> tuple[int, int, int]:
    """Bytes of a chunk, of the overlap, and the furthest that a cut moves."""
    size = (split.tokens or 0) * BYTES_PER_TOKEN
    return size, split.overlap * BYTES_PER_TOKEN, max(min(_SEARCH, size // 8), _BORDER)


def _chunk_count(split: Split, document_bytes: int) -> int:
    size, overlap, _ = _sizes(split)
    if document_bytes <= size:
        return min(document_bytes, 1)
    return -(-(document_bytes - overlap) // (size - overlap))


def _chunks(split: Split, data: bytes) -> Iterator[str]:
    _, overlap, search = _sizes(split)
    count = _chunk_count(split, len(data))
    cuts = [0, *(_cut(data, overlap + (len(data) - overlap) * i // count, search) for i in range(1, count)), len(data)]
    for start, end in pairwise(cuts):
        if end:
            yield data[_overlapped(data, start, overlap, search) : end].decode("utf-8", "surrogatepass")


def _cut(data: bytes, at: int, search: int) -> int:
    """Where to cut: after the last newline or else whitespace in the ``search`` bytes before ``at``, or else at a character's border."""
    window = data[at - search : at]
    space = window.rfind(b"\n")
    if space < 0:
        space = max(window.rfind(bytes([byte])) for byte in _SPACE)
    if space >= 0:
        return at - search + space + 1
    while data[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _overlapped(data: bytes, start: int, overlap: int, search: int) -> int:
    """Where a chunk begins that repeats at most ``overlap`` bytes before ``start``: at a word if one begins soon, always at a character."""
    begin = max(start - overlap, 0)
    if begin in {0, start}:
        return begin
    for at in range(begin, min(begin + search, start)):
        if data[at - 1] in _SPACE:
            return at
    while begin < start and data[begin] & 0xC0 == 0x80:
        begin += 1
    return begin


# --- lines ---

_BLANK = re.compile(r"\s*")


def _lines(document: str) -> Iterator[str]:
    """The lines that are not blank, without their ends; blank ones, however many, are passed over in one go."""
    at = 0
    while (text := _blank_until(document, at)) < len(document):
        begin = max(document.rfind("\n", at, text) + 1, at)
        newline = document.find("\n", text)
        at = len(document) if newline < 0 else newline
        yield document[begin:at].removesuffix("\r")


def _blank_until(document: str, at: int) -> int:
    blank = _BLANK.match(document, at)
    return at if blank is None else blank.end()


# --- JSON ---

_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)
_JSON_SPACE = re.compile(r"[ \t\r\n]*")


def _elements(document: str) -> Iterator[str]:
    """The elements of a JSON array: texts as they are, all else as it was written."""
    at = _skip(document, 0)
    if document[at : at + 1] != "[":
        raise MalformedDocument("the text before the question must be a JSON array: this team reads its elements")
    at = _skip(document, at + 1)
    closed = document[at : at + 1] == "]"
    while not closed:
        value, end = _element(document, at)
        yield value if isinstance(value, str) and document[at] == '"' else document[at:end]
        at = _skip(document, end)
        if document[at : at + 1] not in {",", "]"}:
            raise MalformedDocument(f"the JSON array before the question is broken at character {at}: a comma or a closing bracket is missing")
        closed = document[at] == "]"
        at = at if closed else _skip(document, at + 1)
    end = _skip(document, at + 1)
    if document[end:]:
        raise MalformedDocument(f"the text before the question goes on after the end of its JSON array, at character {end}")


def _element(document: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(document, at)
    except RecursionError:
        raise MalformedDocument(f"the JSON array before the question is nested too deeply at character {at}") from None
    except ValueError as error:
        place = error.pos if isinstance(error, json.JSONDecodeError) else at
        raise MalformedDocument(f"the JSON array before the question cannot be read at character {place}") from None


def _skip(document: str, at: int) -> int:
    space = _JSON_SPACE.match(document, at)
    return at if space is None else space.end()
