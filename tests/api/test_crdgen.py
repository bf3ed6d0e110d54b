"""Generated files are those in the repository, and the generator refuses what a CRD cannot say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import yaml
from pydantic import Field

from modelfleet.api.crdgen import crd, render_files
from modelfleet.api.v1alpha1 import KINDS, AgentTeam, ModelPool
from modelfleet.api.v1alpha1.common import Kind, MapKey, SpecModel, StatusModel
from modelfleet.errors import Bug

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted(render_files()))
def test_the_checked_in_file_is_what_the_models_say(name: str) -> None:
    assert (CHECKOUT / name).read_text() == render_files()[name], "run `modelfleet crds`"


def test_every_kind_has_a_file_and_a_template() -> None:
    assert [Path(name).name for name in render_files() if name.startswith("crds/")] == sorted(f"modelfleet.dev_{kind.PLURAL}.yaml" for kind in KINDS)
    assert len(render_files()) == 2 * len(KINDS)


def test_the_template_is_the_crd_and_one_annotation_that_can_be_switched_off() -> None:
    for kind in KINDS:
        name = f"modelfleet.dev_{kind.PLURAL}.yaml"
        lines = render_files()[f"charts/modelfleet-crds/templates/{name}"].splitlines()
        start = lines.index("  {{- if .Values.keep }}")
        assert lines[start + 1 : start + 4] == ["  annotations:", "    helm.sh/resource-policy: keep", "  {{- end }}"]
        assert lines[:start] + lines[start + 4 :] == render_files()[f"crds/{name}"].splitlines()


def test_files_hold_no_anchors_and_read_back_as_the_object() -> None:
    for kind in KINDS:
        text = render_files()[f"crds/modelfleet.dev_{kind.PLURAL}.yaml"]
        assert "&id" not in text
        assert yaml.safe_load(text) == crd(kind)


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHECKOUT / "charts/modelfleet-crds/Chart.yaml").read_text())
    project = (CHECKOUT / "pyproject.toml").read_text()
    assert f'\nversion = "{chart["version"]}"\n' in project
    assert chart["appVersion"] == chart["version"]


def test_scale_belongs_to_pools_alone() -> None:
    scaled = {kind.KIND: crd(kind)["spec"]["versions"][0]["subresources"].get("scale") for kind in KINDS}
    assert scaled == {"AcceleratorClass": None, "AgentTeam": None, "ModelPool": ModelPool.SCALE, "RoutingPolicy": None}


def test_an_object_of_anything_keeps_what_it_holds_and_every_other_object_is_pruned() -> None:
    schema = crd(AgentTeam)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    free = schema["properties"]["spec"]["properties"]["roles"]["items"]["properties"]["outputSchema"]
    assert free.pop("description")
    assert free == {"type": "object", "maxProperties": 16, "x-kubernetes-preserve-unknown-fields": True}
    assert str(schema).count("preserve-unknown-fields") == 1


class Inner(SpecModel):
    name: Annotated[str, Field(max_length=8)] = "a"


class Ratio(SpecModel):
    ratio: float


class Either(SpecModel):
    value: int | str


class Optional(SpecModel):
    items: Annotated[list[Inner], MapKey(("name",)), Field(max_length=2)]


@pytest.mark.parametrize(("spec", "told"), [(Ratio, "'number'"), (Either, "a union of types"), (Optional, "'name' of a list map must be required")])
def test_what_a_crd_cannot_say_is_a_bug_with_its_path(spec: type[SpecModel], told: str) -> None:
    kind = type(
        "Thing",
        (Kind,),
        {
            "__module__": __name__,
            "__annotations__": {"spec": spec, "status": StatusModel, "KIND": ClassVar[str], "PLURAL": ClassVar[str], "SHORT": ClassVar[str]},
            "KIND": "Thing",
            "PLURAL": "things",
            "SHORT": "th",
        },
    )
    with pytest.raises(Bug, match=r"Thing\.spec") as caught:
        crd(kind)
    assert told in caught.value.message
