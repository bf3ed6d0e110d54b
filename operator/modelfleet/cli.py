"""The command line: names of commands, their arguments and exit codes; what they do is decided elsewhere.

Every command imports its room when it runs and not before, so that ``modelfleet --help`` stays quick. Exit codes: 0 done, 1 an
error told in one sentence on stderr, 2 wrong usage.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated

import typer

from modelfleet.errors import ModelfleetError

__all__ = ["app", "main"]

app = typer.Typer(
    name="modelfleet",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="modelfleet: one model of cost, capacity and demand for a fleet of models on Kubernetes.",
    epilog="Examples: modelfleet crds --check | modelfleet operator | modelfleet router | modelfleet version",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error of ours becomes one sentence on stderr."""
    try:
        app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="modelfleet")
    except ModelfleetError as error:
        typer.echo(f"error: {error.message}", err=True)
        return 1
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    return 0


@app.command(epilog="Example: modelfleet version")
def version() -> None:
    """Print the version of modelfleet."""
    typer.echo(metadata.version("modelfleet"))


@app.command(epilog="Examples: modelfleet crds --output . | modelfleet crds --check")
def crds(
    output: Annotated[Path, typer.Option(help="Root of the repository, below which crds/ and charts/ lie.")] = Path(),
    *,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 and name each file that differs.")] = False,
) -> None:
    """Generate the CustomResourceDefinitions, plain and as a chart, from the models."""
    crdgen = import_module("modelfleet.api.crdgen")
    files: dict[str, str] = crdgen.render_files()
    stale = [output / folder / name for folder in (crdgen.CRD_FOLDER, crdgen.CHART_FOLDER) for name in _strays(output / folder, folder, files)]
    changed = [output / name for name, text in files.items() if not _holds(output / name, text)]
    if check:
        for path in (*changed, *stale):
            typer.echo(f"error: {path} differs from the models: run `modelfleet crds`", err=True)
        raise typer.Exit(1 if changed or stale else 0)
    for path in stale:
        path.unlink()
        typer.echo(f"removed {path}")
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path.relative_to(output).as_posix()], encoding="utf-8")
        typer.echo(f"wrote {path}")


@app.command(epilog="Example: modelfleet operator")
def operator() -> None:
    """Run the operator: places, scales and prices the pools of the cluster."""
    _run("modelfleet.handlers.process", "run_operator")


@app.command(epilog="Example: modelfleet router")
def router() -> None:
    """Run the router beside Envoy: compiles policies, decides requests, counts tokens."""
    _run("modelfleet.router.process", "run_router")


def _run(module: str, function: str) -> None:
    """Run a process to its end; its integer is the exit code."""
    entry: Callable[[], object] = getattr(import_module(module), function)
    code = entry()
    raise typer.Exit(code if isinstance(code, int) else 0)


def _strays(folder: Path, name: str, files: dict[str, str]) -> list[str]:
    """Generated files that belong to no kind any more."""
    return sorted(path.name for path in folder.glob("modelfleet.dev_*.yaml") if f"{name}/{path.name}" not in files)


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text
