"""`python -m e2e.lab`: bring a real cluster up on this machine, look at it, take it down."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from e2e.lab.binaries import binary
from e2e.lab.lab import Lab
from e2e.lab.nodes import DEFAULT, GPU_RESOURCE
from e2e.lab.steps import LabError, console

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Name = Annotated[str, typer.Option("--name", envvar="MODELFLEET_LAB", help="Which lab; one can be up in a network namespace.")]


@app.command()
def up(nodes: Annotated[str, typer.Option(help=f"Nodes to run, as kind[:devices]; {DEFAULT} unless told or remembered.")] = "", name: Name = "main") -> None:
    """Bring the lab up, or repair it. Example: python -m e2e.lab up --nodes cpu,h100:1,l4:2"""
    began = time.monotonic()
    lab = Lab(name)
    lab.up(nodes)
    console.print(f"the lab is up [dim]{time.monotonic() - began:.1f} s[/dim]   export KUBECONFIG={lab.kubeconfig}", soft_wrap=True)


@app.command()
def down(purge: Annotated[bool, typer.Option("--purge", help="Forget the images in the nodes as well.")] = False, name: Name = "main") -> None:
    """Take the lab down and leave nothing behind but the cache. Example: python -m e2e.lab down"""
    Lab(name).down(purge)


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False, name: Name = "main") -> None:
    """Processes, nodes and images; exits 1 when something is not well. Example: python -m e2e.lab status --json"""
    lab = Lab(name)
    if not lab.exists:
        raise LabError("the lab is not up: run `python -m e2e.lab up`")
    processes = {n: lab.process(n).pid for n in lab.process_names}
    objects = {n["metadata"]["name"]: n for n in lab.get("nodes")["items"]} if lab.plane.ready() else {}
    rows = {
        spec.name: {
            "ready": any(c["type"] == "Ready" and c["status"] == "True" for c in objects.get(spec.name, {}).get("status", {}).get("conditions", ())),
            "devices": objects.get(spec.name, {}).get("status", {}).get("allocatable", {}).get(GPU_RESOURCE, "0"),
            "address": spec.address,
        }
        for spec in lab.specs
    }
    images = lab.images if (lab.state / "images.json").exists() else {}
    well = all(processes.values()) and all(r["ready"] for r in rows.values())
    if as_json:
        print(json.dumps({"well": well, "processes": processes, "nodes": rows, "images": images, "kubeconfig": str(lab.kubeconfig)}, indent=1))
    else:
        _print_status(processes, rows, images)
    raise typer.Exit(0 if well else 1)


@app.command()
def kubeconfig(name: Name = "main") -> None:
    """Print the path of the administrator's kubeconfig. Example: export KUBECONFIG=$(python -m e2e.lab kubeconfig)"""
    print(Lab.current(name).kubeconfig)


@app.command()
def load(
    archive: Annotated[Path, typer.Argument(help="An image archive as `docker save` or `buildah push docker-archive:` writes it.")], name: Name = "main"
) -> None:
    """Load an image into every node and print its reference. Example: python -m e2e.lab load image.tar"""
    print(Lab.current(name).load(archive))


@app.command()
def build(name: Name = "main") -> None:
    """Build the images that changed, load them, print the references. Example: python -m e2e.lab build"""
    print(json.dumps(Lab(name).build(quiet=False), indent=1))


@app.command()
def logs(
    pod: str,
    namespace: Annotated[str, typer.Option("-n", "--namespace")] = "default",
    follow: Annotated[bool, typer.Option("-f", "--follow")] = False,
    name: Name = "main",
) -> None:
    """Print the logs of all containers of a pod. Example: python -m e2e.lab logs router-0 -n modelfleet"""
    lab = Lab.current(name)
    more = ["--follow"] if follow else []
    argv = ["kubectl", f"--kubeconfig={lab.kubeconfig}", "logs", "--all-containers", "--prefix", "-n", namespace, pod, *more]
    os.execv(binary("kubectl"), argv)


def _print_status(processes: dict[str, int | None], nodes: dict[str, dict[str, object]], images: dict[str, str]) -> None:
    out = Console(highlight=False)
    table = Table("node", "ready", "devices", "address", box=None)
    for node, row in nodes.items():
        table.add_row(node, "[green]yes[/green]" if row["ready"] else "[red]no[/red]", str(row["devices"]), str(row["address"]))
    out.print(table)
    dead = [n for n, pid in processes.items() if pid is None]
    out.print(f"processes: {len(processes) - len(dead)} run" + (f", [red]stopped: {', '.join(dead)}[/red]" if dead else ""))
    for image, ref in images.items():
        out.print(f"{image}: {ref}", soft_wrap=True)


def main() -> None:
    """Run the command; a LabError is a sentence on stderr and exit status 1."""
    try:
        app()
    except LabError as e:
        console.print(str(e), style="red", markup=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
