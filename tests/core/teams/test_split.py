"""Cutting a document: nothing is lost, characters stay whole, and the number of parts is known from the bytes."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from modelfleet.api.v1alpha1.agentteam import Split
from modelfleet.core.teams.split import MalformedDocument, part_bound, split_document

texts = st.text(alphabet=st.sampled_from("ab \n\té漢😀\ud800"), max_size=1500)


@st.composite
def chunkings(draw: st.DrawFn) -> Split:
    tokens = draw(st.integers(16, 64))
    return Split(by="Chunk", tokens=tokens, overlap=draw(st.integers(0, tokens // 2)))


def size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=50, deadline=None)
@given(split=chunkings(), text=texts)
def test_chunks(split: Split, text: str) -> None:
    parts = split_document(split, text)
    bound = part_bound(split, size(text))
    assert len(parts) == bound.most == bound.fewest
    assert bound.fewest_bytes <= sum(map(size, parts)) <= bound.most_bytes
    nominal = split.tokens * 4
    assert all(size(part) <= nominal + nominal // 8 + 1 for part in parts)
    assert all(parts)
    at = 0  # every part begins at or before the end of the one before it, so joined they are the text
    for part in parts:
        begin = next(b for b in range(max(at - split.overlap * 4, 0), at + 1) if text.startswith(part, b) and b + len(part) > at)
        at = begin + len(part)
    assert at == len(text)


@pytest.mark.parametrize("overlap", [0, 80, 400])
@pytest.mark.parametrize("items", [1, 2, 7, 200])
def test_a_document_as_long_as_the_items_allow_has_as_many(overlap: int, items: int) -> None:
    split = Split(by="Chunk", tokens=800, overlap=overlap)
    longest = (items * 800 - (items - 1) * overlap) * 4
    assert len(split_document(split, "x" * longest)) == items
    assert len(split_document(split, "x" * (longest + 1))) == items + 1


def test_a_cut_is_made_between_words_and_rather_between_lines() -> None:
    words = split_document(Split(by="Chunk", tokens=100), "lorem ipsum " * 100)
    assert all(part.startswith(("lorem", "ipsum")) and part.endswith(" ") for part in words)
    lines = split_document(Split(by="Chunk", tokens=100), "a line of words\n" * 100)
    assert all(part.startswith("a line") and part.endswith("words\n") for part in lines)


def test_an_overlap_begins_at_a_word() -> None:
    parts = split_document(Split(by="Chunk", tokens=100, overlap=20), "lorem ipsum " * 100)
    assert all(part.startswith(("lorem", "ipsum")) for part in parts)
    assert all(before[-60:].endswith(part[:40]) or part[:40] in before for before, part in pairwise(parts))


def test_without_whitespace_characters_stay_whole() -> None:
    parts = split_document(Split(by="Chunk", tokens=16), "漢" * 500)
    assert "".join(parts) == "漢" * 500
    assert {part.strip("漢") for part in parts} == {""}


def test_an_empty_document_has_no_parts() -> None:
    assert split_document(Split(by="Chunk", tokens=16), "") == ()
    assert split_document(Split(by="Lines"), " \n\n\t") == ()
    assert split_document(Split(by="JsonArray"), " [ ] ") == ()


def test_lines_are_those_with_something_on_them() -> None:
    assert split_document(Split(by="Lines"), "a\r\n\n  b \n\u2028c") == ("a", "  b ", "\u2028c")


@settings(max_examples=40, deadline=None)
@given(text=texts)
def test_lines_are_bounded(text: str) -> None:
    parts, bound = split_document(Split(by="Lines"), text), part_bound(Split(by="Lines"), size(text))
    assert len(parts) <= bound.most
    assert sum(map(size, parts)) <= bound.most_bytes


@settings(max_examples=40, deadline=None)
@given(text=st.text(alphabet="ab \t\r\n\x0b\u2028", max_size=40))
def test_lines_are_what_splitting_at_newlines_gives(text: str) -> None:
    assert split_document(Split(by="Lines"), text) == tuple(line for line in (raw.removesuffix("\r") for raw in text.split("\n")) if line.strip())


@pytest.mark.parametrize(("by", "document"), [("Lines", "a\n" * 50), ("JsonArray", "[" + "1," * 50 + "not read, not judged"), ("Chunk", "word " * 2000)])
def test_a_document_is_read_no_further_than_the_team_reads(by: str, document: str) -> None:
    split = Split.model_validate({"by": by, "maxItems": 3} | ({"tokens": 16} if by == "Chunk" else {}))
    assert len(split_document(split, document)) == 4


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3)
)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(json_values, max_size=6), spaces=st.sampled_from([None, 2]), ascii_only=st.booleans())
def test_elements_of_an_array(values: list, spaces: int | None, ascii_only: bool) -> None:
    document = json.dumps(values, indent=spaces, ensure_ascii=ascii_only)
    parts = split_document(Split(by="JsonArray"), document)
    assert [part if isinstance(value, str) else json.loads(part) for part, value in zip(parts, values, strict=True)] == values
    bound = part_bound(Split(by="JsonArray"), size(document))
    assert len(parts) <= bound.most
    assert sum(map(size, parts)) <= bound.most_bytes


def test_the_bounds_of_lines_and_arrays_are_reached() -> None:
    assert len(split_document(Split(by="Lines"), "a\nb\nc")) == part_bound(Split(by="Lines"), 5).most
    assert len(split_document(Split(by="JsonArray"), "[1,2,3]")) == part_bound(Split(by="JsonArray"), 7).most


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "must be a JSON array"),
        ('{"a": 1}', "must be a JSON array"),
        ("[1, 2", "broken at character 5"),
        ("[1 2]", "broken at character 3"),
        ("[1,]", "cannot be read at character 3"),
        ("[,]", "cannot be read at character 1"),
        ("[1]]", "goes on after the end of its JSON array, at character 3"),
        ("[] x", "goes on after the end"),
        ("[" * 100_000, "nested too deeply"),
        ('["' + "x" * 10, "cannot be read"),
    ],
)
def test_what_is_no_array_is_refused_in_words(document: str, said: str) -> None:
    with pytest.raises(MalformedDocument) as refused:
        split_document(Split(by="JsonArray"), document)
    assert said in refused.value.message
    assert len(refused.value.message) < 200


def test_a_number_of_any_length_is_an_element() -> None:
    assert split_document(Split(by="JsonArray"), "[" + "9" * 10_000 + "]") == ("9" * 10_000,)
