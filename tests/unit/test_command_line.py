"""The command line: help, exit codes, one line per failure."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from packaging.requirements import Requirement

from hat import __version__
from hat.cli import hat, run
from hat.errors import EXTRAS, CommandError, extras_explained
from submodels.bundle.bundle import load_bundle

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "stories260k"
COMMANDS = ("up", "split", "cloud", "device", "chat", "verify")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HAT_")]:
        monkeypatch.delenv(name)


def _invoke(*arguments: str) -> Result:
    return CliRunner().invoke(hat, arguments)


def _fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and what stderr says."""
    return run(arguments), capsys.readouterr().err.strip()


def test_help_lists_the_commands_with_the_first_to_try_first() -> None:
    result = _invoke("--help")
    assert result.exit_code == 0
    places = [result.output.index(f"\n  {command} ") for command in COMMANDS]
    assert places == sorted(places)


def test_without_a_command_the_help_is_shown() -> None:
    assert _invoke().output == _invoke("--help").output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    output = _invoke(command, "--help").output
    assert f"\n    hat {command}" in output.partition("Examples:")[2]


@pytest.mark.parametrize("command", ["cloud", "device", "up", "chat"])
def test_no_command_takes_a_secret_on_the_command_line(command: str) -> None:
    flags = {name for param in hat.commands[command].params for name in param.opts}
    assert flags & {"--secret", "--api-key"} == set()
    assert "--api-key-file" in flags or command == "cloud"


def _all_options(command: click.Command) -> Iterator[click.Parameter]:
    yield from command.params
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from _all_options(each)


def test_no_option_takes_nan_for_a_number() -> None:
    kinds = {type(param.type) for param in _all_options(hat)}
    assert not kinds & {click.FloatRange, type(click.FLOAT)}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
def test_a_full_disk_under_the_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hat", "cloud", "b", "--print-config"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "hat: no space left on device\n")


def test_as_a_module_it_prints_its_version() -> None:
    command = [sys.executable, "-m", "hat", "--version"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, f"hat {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["clod"], "hat: No such command 'clod'"),
        (["cloud", "b", "--prot", "1"], "hat: No such option '--prot'"),
        (["cloud"], "hat: missing BUNDLE"),
        (["cloud", "b", "--port", "x"], "hat: --port: expected an integer, got 'x'"),
        (["cloud", "b", "--tls-key", "k"], "hat: --tls-certificate and --tls-key go together"),
        (
            ["device"],
            "hat: missing BUNDLE (or HAT_DEVICE_BUNDLE, or bundle in --config), or --cloud",
        ),
        (["device", "b", "--bundle-key", "k"], "hat: --bundle-key: expected a key as `hat sign`"),
        (["verify", "--bundle-key", "ed25519:k"], "hat: --bundle-key: expected a key as"),
        (["doctor"], "hat: missing BUNDLE"),
        (["device", "b", "--weights", "int2"], "hat: --weights: expected one of"),
        (["device", "b", "--config", "/none"], "hat: cannot read --config /none"),
        (["up", "--cloud-port", "x"], "hat: --cloud-port: expected an integer, got 'x'"),
        (["up", "--port", "7700"], "hat: --port and --cloud-port are both 7700"),
        (["chat", "--url", "localhost"], "hat: --url: expected a URL like"),
        (["chat", "--temperature", "-1"], "hat: Invalid value for '--temperature'"),
        (["chat", "--temperature", "nan"], "hat: Invalid value for '--temperature'"),
        (["status", "--watch", "inf"], "hat: Invalid value for '--watch'"),
        (["split", "m"], "hat: Missing option '--out'"),
        (["split", "m", "--out", "o", "--onnx-weights", "int2"], "hat: Invalid value"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    code, message = _fails(capsys, *arguments)
    assert code == 2
    assert message.startswith(expected)


def test_print_config_shows_values_with_sources_and_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HAT_CLOUD_HOST", "0.0.0.0")
    config = tmp_path / "hat.toml"
    config.write_text("[cloud]\nmax_sessions = 3\n")
    flags = ("--port", "9", "--config", str(config), "--print-config")
    output = _invoke("cloud", "no/such/bundle", *flags).output
    rows = [" ".join(line.split()) for line in output.splitlines()]
    assert 'bundle = "no/such/bundle" # argument' in rows
    assert "port = 9 # --port" in rows
    assert 'host = "0.0.0.0" # HAT_CLOUD_HOST' in rows
    assert f"max_sessions = 3 # {config} [cloud]" in rows
    assert 'log_level = "info" # default' in rows


@pytest.mark.parametrize("command", [("device", "bundle"), ("up",)])
@pytest.mark.parametrize(
    "flags",
    [
        ("--served-model-name", "a,b/c"),
        ("--served-model-name", "a", "--served-model-name", "b/c"),
        ("--served-model-name=a", "--served-model-name= b/c ,"),
    ],
)
def test_a_list_is_one_text_or_flag_by_flag_and_can_be_read_again(
    command: tuple[str, ...], flags: tuple[str, ...], tmp_path: Path
) -> None:
    output = _invoke(*command, *flags, "--print-config").output
    assert 'served_model_name = ["a", "b/c"] ' in output
    config = tmp_path / "hat.toml"
    for text in ('["a", "b/c"]', '"a"', "[]"):
        config.write_text(f"[device]\nserved_model_name = {text}\n")
        again = _invoke("device", "bundle", "--config", str(config), "--print-config").output
        expected = text if text.startswith("[") else f"[{text}]"
        assert f"served_model_name = {expected} " in " ".join(again.split())


def test_up_prints_the_settings_of_both_sides() -> None:
    output = _invoke("up", "--cloud-port", "9", "--port", "10", "--print-config").output
    cloud, _, device = output.partition("[device]")
    assert "port = 9 " in cloud
    assert "port = 10 " in device


def test_the_config_file_can_be_named_by_a_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "hat.toml"
    config.write_text("[device]\nport = 4321\n")
    monkeypatch.setenv("HAT_CONFIG", str(config))
    assert "port = 4321 " in _invoke("device", "--print-config").output


def test_split_writes_both_bundles_and_says_what_to_run(tmp_path: Path) -> None:
    out = tmp_path / "stories"
    result = _invoke("split", str(MODEL), "--out", str(out), "--onnx-weights", "int8")
    assert result.exit_code == 0, result.output
    assert "1 input, 4 middle and 0 output layers, float32" in result.output
    assert f"cloud {out}/cloud" in result.output
    assert f"device {out}/device --weights int8" in result.output
    assert load_bundle(out, "device").manifest.onnx_weights == ("int8",)
    assert load_bundle(out, "cloud").manifest.num_input_layers == 1


def test_split_replaces_bundles_only_by_force(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["split", str(MODEL), "--out", str(tmp_path / "b"), "--onnx-weights", "none"]
    assert run(arguments) == 0
    capsys.readouterr()
    code, message = _fails(capsys, *arguments)
    assert (code, message.count("\n")) == (1, 0)
    assert "--force replaces them" in message
    assert run([*arguments, "--force", "--input-layers", "2"]) == 0
    assert load_bundle(tmp_path / "b", "cloud").manifest.num_input_layers == 2


@pytest.mark.parametrize(
    ("model", "flags", "expected"),
    [
        ("no/such/model/here", [], "expected a folder with a checkpoint, a GGUF file, or a hub id"),
        (str(MODEL), ["--input-layers", "5"], "at least one middle layer"),
    ],
)
def test_a_split_that_is_refused_is_exit_code_1_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    model: str,
    flags: list[str],
    expected: str,
) -> None:
    code, message = _fails(capsys, "split", model, "--out", str(tmp_path / "b"), *flags)
    assert code == 1
    assert message.startswith("hat: ")
    assert expected in message
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    requirements = [Requirement(text) for text in requires("hat-serving") or []]
    for package, extra in EXTRAS.items():
        brought = {r.name for r in requirements if r.marker and r.marker.evaluate({"extra": extra})}
        assert package in brought
        with (
            pytest.raises(CommandError, match=rf"{package}: pip install .*\[{extra}\]"),
            extras_explained(),
        ):
            raise ModuleNotFoundError(name=f"{package}.part")


def test_a_missing_module_of_our_own_is_a_bug_and_shows_as_one() -> None:
    with pytest.raises(ModuleNotFoundError), extras_explained():
        raise ModuleNotFoundError(name="device_runtime.nothing")
