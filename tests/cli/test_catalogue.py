"""`modelfleet catalogue match`: what it prints, and what it says of files it cannot read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from modelfleet.cli import main

NODES = Path(__file__).resolve().parents[1] / "policies" / "nodes"
L4 = "kind: Node\nmetadata: {name: a, labels: {nvidia.com/gpu.product: NVIDIA-L4, nvidia.com/gpu.count: 2}}\n"


def test_csv_agrees_with_the_recorded_answers(capsys: pytest.CaptureFixture[str]) -> None:
    expected = list(csv.DictReader((NODES / "expected.csv").read_text().splitlines()))
    assert main(["catalogue", "match", *(str(NODES / row["file"]) for row in expected), "--csv"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "file,class,devices,memory_gib"
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [(r["file"], r["class"], r["devices"]) for r in rows] == [(r["file"], r["class"], r["devices"]) for r in expected]
    assert [r["memory_gib"] == "unknown" for r in rows] == [r["memory_gib"] == "unknown" for r in expected]


def test_a_list_and_several_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "nodes.yaml"
    file.write_text(
        "kind: List\nitems:\n- {kind: Node, metadata: {name: a}}\n- {kind: Node, metadata: {name: b}}\n---\n---\n" + L4.replace("name: a", "name: c")
    )
    assert main(["catalogue", "match", str(file), "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "nodes.yaml#a,unknown,unknown,unknown",
        "nodes.yaml#b,unknown,unknown,unknown",
        "nodes.yaml#c,l4,2,22.5",
    ]


def test_a_node_list_names_the_kind_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "nodes.json"
    file.write_text(json.dumps({"kind": "NodeList", "items": [{"metadata": {"labels": {"node.kubernetes.io/instance-type": "p5.48xlarge"}}}]}))
    assert main(["catalogue", "match", str(file), "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["nodes.json,h100-sxm,8,79.6"]


def test_json_and_a_table_have_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(L4)
    assert main(["catalogue", "match", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"file": "a.yaml", "class": "l4", "devices": 2, "memory_gib": 22.5, "unit": "Device", "profile": ""}]
    assert main(["catalogue", "match", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert "MEMORY GIB" in table
    assert table.split()[-4:] == ["a.yaml", "l4", "2", "22.5"]


def test_equal_names_are_told_apart_by_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / folder / "node.yaml" for folder in "xy"]
    for file in files:
        file.parent.mkdir()
        file.write_text(L4)
    assert main(["catalogue", "match", *map(str, files), "--csv"]) == 0
    assert [row.split(",")[0] for row in capsys.readouterr().out.splitlines()[1:]] == [str(f) for f in files]


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(L4))
    assert main(["catalogue", "match", "-", "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["-,l4,2,22.5"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "kind: Node\nmetadata: {}\nstatus: {capacity: {nvidia.com/gpu: lots}}\n",
            "status.capacity[\"nvidia.com/gpu\"]: 'lots' is no count of devices: write a whole number",
        ),
        ("kind: Pod\n", "kind: 'Pod' has no accelerators to recognise: give a Node or a ResourceSlice"),
        ("a: [\n", "not readable as YAML or JSON"),
        ("# nothing\n", "holds no object: give a Node or a ResourceSlice"),
        ("- 1\n", "is no object"),
        ("kind: ResourceSlice\nspec: {driver: gpu.nvidia.com, devices: 3}\n", "spec.devices: 3 is not a list"),
    ],
)
def test_what_cannot_be_read_is_named_and_hides_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str) -> None:
    bad, good = tmp_path / "bad.yaml", tmp_path / "good.yaml"
    bad.write_text(text)
    good.write_text(L4)
    assert main(["catalogue", "match", str(bad), str(tmp_path / "absent.yaml"), str(good), "--csv"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[1:] == ["good.yaml,l4,2,22.5"]
    assert [line.startswith("error: ") for line in err.splitlines()] == [True, True]
    assert str(bad) in err.splitlines()[0]
    assert told in err.splitlines()[0]
    assert "absent.yaml" in err.splitlines()[1]


@pytest.mark.parametrize("arguments", [["catalogue", "match"], ["catalogue", "match", "x", "--csv", "--json"], ["catalogue", "match", "x", "--cvs"]])
def test_wrong_usage(arguments: list[str]) -> None:
    assert main(arguments) == 2


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalogue", "match", "--help"]) == 0
    assert "modelfleet catalogue match node.yaml" in capsys.readouterr().out


HOSTILE = {
    "nested too deeply": ("[" * 3000 + "]" * 3000, "nested deeper than 100"),
    "a node nested too deeply": (f"kind: Node\nmetadata: {{annotations: {'{a: ' * 200}1{'}' * 200}}}\n", "nested deeper than 100"),
    "aliases that multiply": (
        "a: &a [x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)) + "kind: *i\n",
        "a list",
    ),
    "merge keys that multiply": (
        "a0: &a0 {x: 1, y: 2}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], k{n}: 1}}\n" for n in range(1, 60)),
        "merge keys bring in more than",
    ),
    "no day of any month": ("kind: Node\nmetadata: {labels: {x: 2021-13-45}}\n", "not readable as YAML or JSON"),
    "a number without digits": ("kind: Node\nmetadata: {labels: {x: 0x_}}\n", "not readable as YAML or JSON"),
    "a tag without its value": ("kind: Node\nmetadata: {labels: {x: !!bool maybe}}\n", "not readable as YAML or JSON"),
    "a number of 5000 digits": (f"kind: Node\nmetadata: {{labels: {{x: {'7' * 5000}}}}}\n", "not readable as YAML or JSON"),
    "a label that is a list": ("kind: Node\nmetadata: {labels: {x: [1]}}\n", "metadata.labels: a list is no text"),
    "an absurd exponent": ("kind: Node\nstatus: {capacity: {nvidia.com/gpu: '1e999999999'}}\n", "is no count of devices"),
    "memory beyond any device": ("kind: ResourceSlice\nspec: {driver: gpu.nvidia.com, devices: [{capacity: {memory: 9E}}]}\n", "more than any device has"),
    "digits of another script": ("kind: Node\nstatus: {capacity: {nvidia.com/gpu: '１２'}}\n", "is no count of devices"),
    "a name that steers a terminal": ('kind: "a\\eb"\n', "kind: 'a\\x1bb'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_one_line_of_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    text, told = HOSTILE[case]
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    assert main(["catalogue", "match", str(file), "--csv"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == ["file,class,devices,memory_gib"]
    assert len(err.splitlines()) == 1
    assert told in err
    assert len(err) < 600


def test_a_bad_document_does_not_hide_those_before_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "nodes.yaml"
    for bad in ("{bad\n", "x: 2021-13-45\n", "[" * 3000):
        file.write_text(f"{L4}---\n{bad}")
        assert main(["catalogue", "match", str(file), "--csv"]) == 1
        out, err = capsys.readouterr()
        assert out.splitlines()[1:] == ["nodes.yaml,l4,2,22.5"]
        assert "not readable" in err


def test_names_are_no_markup_and_break_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a[bold].yaml").write_text(f"{L4}---\n" + L4.replace("name: a", 'name: "b\\n\\e[31m[/x]"'))
    assert main(["catalogue", "match", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert "a[bold].yaml#a " in table
    assert "a[bold].yaml#b\\n\\x1b[31m[/x] " in table
    assert main(["catalogue", "match", str(tmp_path), "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("annotation", ["[" * 100_000, '[{"type": {}, "devmem": []}]', "7", '[{"type": "NVIDIA A10", "devmem": 1e400}]'])
def test_a_nonsense_annotation_is_as_good_as_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], annotation: str) -> None:
    file = tmp_path / "n.json"
    file.write_text(json.dumps({"kind": "Node", "metadata": {"annotations": {"hami.io/node-nvidia-register": annotation}}}))
    assert main(["catalogue", "match", str(file), "--csv"]) == 0


@pytest.mark.parametrize("spec", ["null", "{driver: gpu.nvidia.com}", "{driver: gpu.nvidia.com, devices: []}", "{driver: gpu.nvidia.com, devices: null}"])
def test_a_slice_of_nothing_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str], spec: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f"kind: ResourceSlice\nspec: {spec}\n")
    assert main(["catalogue", "match", str(file), "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["s.yaml,unknown,unknown,unknown"]
