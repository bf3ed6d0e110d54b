"""The command line: exit codes, one sentence for an error, drift, and a quick --help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from modelfleet import errors
from modelfleet.cli import app, explain, main

CHECKOUT = Path(__file__).resolve().parents[2]


def test_drift_is_named_and_exits_1_and_a_second_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--output", str(tmp_path)]
    assert main(["crds", *where, "--check"]) == 1
    assert "crds/modelfleet.dev_modelpools.yaml differs from the models" in capsys.readouterr().err
    assert main(["crds", *where]) == 0
    assert len(list(tmp_path.rglob("*.yaml"))) == 8
    assert main(["crds", *where, "--check"]) == 0
    capsys.readouterr()
    assert main(["crds", *where]) == 0
    assert capsys.readouterr().out == ""


def test_one_changed_and_one_stray_file_are_drift(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--output", str(tmp_path)]
    main(["crds", *where])
    changed, stray = tmp_path / "crds/modelfleet.dev_routingpolicies.yaml", tmp_path / "crds/modelfleet.dev_gone.yaml"
    changed.write_text(changed.read_text() + "# by hand\n")
    stray.write_text("")
    capsys.readouterr()
    assert main(["crds", *where, "--check"]) == 1
    told = capsys.readouterr().err
    assert str(changed) in told
    assert str(stray) in told
    assert len(told.splitlines()) == 2
    assert main(["crds", *where]) == 0
    assert not stray.exists()
    assert main(["crds", *where, "--check"]) == 0


def test_the_repository_has_no_drift() -> None:
    assert main(["crds", "--output", str(CHECKOUT), "--check"]) == 0


def test_usage_errors_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 2
    assert main(["crds", "--nonsense"]) == 2
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "Examples:" in capsys.readouterr().out


COMMANDS = ("crds", "operator", "router", "teams", "version", "top", "plan", "estimate", "explain", "explain pool", "explain request")


def test_the_list_of_commands_is_complete() -> None:
    assert {c.callback.__name__ for c in app.registered_commands if c.callback} == {c for c in COMMANDS if not c.startswith("explain")}
    assert {f"explain {c.name}" for c in explain.registered_commands} == {c for c in COMMANDS if " " in c}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert f"modelfleet {command}" in " ".join(capsys.readouterr().out.split("Example", 1)[1].split())


@pytest.mark.parametrize("command", ["top", "plan", "estimate", "explain pool", "explain request"])
def test_what_prints_a_table_prints_json_too(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["operator", "top", "plan", "estimate", "explain pool", "explain request"])
def test_what_asks_an_api_server_takes_a_context(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert "--context" in capsys.readouterr().out


@pytest.mark.parametrize(("command", "module", "function"), [("operator", "handlers", "run_operator"), ("router", "router", "run_router")])
def test_a_process_ends_with_its_own_code_or_one_sentence(
    command: str, module: str, function: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = ModuleType(f"modelfleet.{module}.process")
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    setattr(stand_in, function, lambda *_: 3)
    assert main([command]) == 3
    setattr(stand_in, function, lambda *_: 0)
    assert main([command]) == 0

    def refuse(*_: object) -> None:
        raise errors.Forbidden(403, "Forbidden", "may not watch modelpools: grant it in the ClusterRole")

    setattr(stand_in, function, refuse)
    assert main([command]) == 1
    assert capsys.readouterr().err == "error: may not watch modelpools: grant it in the ClusterRole\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert f'\nversion = "{capsys.readouterr().out.strip()}"\n' in (CHECKOUT / "pyproject.toml").read_text()


def test_help_loads_none_of_the_rooms() -> None:
    heavy = {"pydantic", "kopf", "kubernetes", "grpc", "yaml"}
    code = f"import sys; from modelfleet.cli import main; main(['--help']); print(sorted({heavy} & sys.modules.keys()))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "[]"


def test_python_dash_m_is_the_same_command() -> None:
    told = subprocess.run([sys.executable, "-m", "modelfleet", "version"], capture_output=True, text=True, check=True)
    assert told.stdout.strip().count(".") == 2
