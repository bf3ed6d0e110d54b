"""The command line: names of commands, their arguments and exit codes; what they do is decided elsewhere.

Every command imports its room when it runs and not before, so that ``modelfleet --help`` stays quick. Exit codes: 0 done, 1 an
error told in one sentence on stderr, 2 wrong usage; `estimate` has two more.
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
    epilog="Examples: modelfleet top | modelfleet plan -f pool.yaml | modelfleet explain pool apps/coder | modelfleet crds --check",
)
explain = typer.Typer(
    no_args_is_help=True,
    help="Tell why: a pool's placement, or the way of one request.",
    rich_markup_mode=None,
    epilog="Examples: modelfleet explain pool apps/coder | modelfleet explain request --policy apps/assistant --body request.json",
)
app.add_typer(explain, name="explain")
catalogue = typer.Typer(
    no_args_is_help=True,
    help="The catalogue of accelerators, offline.",
    rich_markup_mode=None,
    epilog="Example: modelfleet catalogue match node.yaml",
)
app.add_typer(catalogue, name="catalogue")

Kubeconfig = Annotated[Path | None, typer.Option(help="Path of a kubeconfig; absent: KUBECONFIG, then ~/.kube/config.")]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Only this namespace; absent: all.")]


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


@app.command(epilog="Examples: modelfleet operator | modelfleet operator --kubeconfig ~/.kube/config --context lab")
def operator(kubeconfig: Kubeconfig = None, context: Context = None) -> None:
    """Run the operator: places, scales and prices the pools of the cluster. More is set by MODELFLEET_* variables."""
    options = import_module("modelfleet.settings").operator_options(kubeconfig=kubeconfig, context=context)
    raise typer.Exit(import_module("modelfleet.handlers.process").run_operator(options))


@app.command(epilog="Examples: modelfleet router | modelfleet router --keep")
def router(*, keep: Annotated[bool, typer.Option("--keep", help="Start it again whenever it dies, as in a gateway pod.")] = False) -> None:
    """Run the router beside Envoy: compiles policies, decides requests, counts tokens."""
    if keep:
        raise typer.Exit(import_module("modelfleet.router.keeper").keep([sys.executable, "-m", "modelfleet", "router"]))
    _run("modelfleet.router.process", "run_router")


@app.command(epilog="Example: modelfleet teams")
def teams() -> None:
    """Run the team runtime: answers OpenAI requests for AgentTeams, within their budgets. Set by MODELFLEET_* variables."""
    _run("modelfleet.teamserver.process", "run_teams")


@app.command(epilog="Examples: modelfleet top | modelfleet top -n apps --once | modelfleet top --once --json")
def top(
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Print once and end.")] = False,
    interval: Annotated[float, typer.Option(min=0.5, help="Seconds between looks.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Show the pools, live: flavors, ready replicas, tokens per second, cost and the last reason."""
    import_module("modelfleet.cli.fleet").top(kubeconfig, context, namespace, interval=None if once or as_json else interval, as_json=as_json)


@app.command(epilog="Examples: modelfleet plan | modelfleet plan -f pool.yaml | modelfleet plan -f fleet/ --json")
def plan(
    files: Annotated[list[Path] | None, typer.Option("--file", "-f", help="Manifests (files or folders) to lay over the cluster before planning.")] = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show what the operator would change now, or if these manifests were applied. Changes nothing."""
    import_module("modelfleet.cli.fleet").plan(kubeconfig, context, files or [], as_json=as_json)


@app.command(
    epilog="Examples: modelfleet estimate -f team.yaml --input-tokens 50000 | modelfleet estimate -f team.yaml -f pools.yaml --input-tokens 50000 --json"
)
def estimate(
    files: Annotated[
        list[Path], typer.Option("--file", "-f", help="Manifests (files or folders) of teams, and of their pools and policies if not in the cluster.")
    ],
    input_tokens: Annotated[int, typer.Option(min=0, max=100_000_000, help="Tokens of the document, at four bytes each.")],
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Tell what a run of a team costs at least and at most, before it is run. Exits 3 if the worst case exceeds the budget, 4 if no run could start."""
    raise typer.Exit(import_module("modelfleet.cli.teams").estimate(kubeconfig, context, files, input_tokens, as_json=as_json))


@explain.command("pool", epilog="Examples: modelfleet explain pool apps/coder | modelfleet explain pool apps/coder --json")
def explain_pool(
    pool: Annotated[str, typer.Argument(help="<namespace>/<name> of a ModelPool.")],
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Tell, flavor by flavor, why a pool runs where it runs."""
    import_module("modelfleet.cli.fleet").explain_pool(kubeconfig, context, pool, as_json=as_json)


@explain.command(
    "request",
    epilog="Examples: modelfleet explain request --policy apps/assistant --body request.json | "
    'echo \'{"model":"auto","messages":[]}\' | modelfleet explain request --policy apps/assistant --body - --header x-canary=1',
)
def explain_request(
    body: Annotated[Path, typer.Option(help="File with the request's JSON body; - reads standard input.")],
    policy: Annotated[str | None, typer.Option(help="<namespace>/<name> of a RoutingPolicy; needed without --router.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="A request header, name=value; may be repeated.")] = None,
    router: Annotated[str | None, typer.Option(help="URL of a router (port 8081): answer from its live facts instead of the API server's objects.")] = None,
    *,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    as_json: AsJson = False,
) -> None:
    """Tell which pool would answer a request, and why. Nothing is sent on."""
    import_module("modelfleet.cli.request").explain_request(kubeconfig, context, policy, body, headers=header or [], router=router, as_json=as_json)


@catalogue.command(
    "match",
    epilog="Examples: modelfleet catalogue match node.yaml | modelfleet catalogue match nodes/*.yaml --csv | "
    "kubectl get nodes -o yaml | modelfleet catalogue match - --json",
)
def catalogue_match(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Files (or folders) with Nodes, ResourceSlices or Lists of them; - reads standard input.")
    ],
    *,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: file,class,devices,memory_gib.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell which accelerator each Node or ResourceSlice has, how many devices and how much memory each. Asks no cluster.

    Devices are physical ones: slices, time-shared replicas and virtual shares are divided back. `unknown`: the object does not tell.
    """
    if as_csv and as_json:
        raise typer.BadParameter("choose one of --csv and --json")
    raise typer.Exit(import_module("modelfleet.cli.catalogue").match(files, as_csv=as_csv, as_json=as_json))


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
