"""`hat service`: what is written for systemd and launchd, and whose files stay as they are."""

import os
import plistlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.cli import hat
from hat.errors import CommandError
from hat.service.command_line import Installation, service_of
from hat.service.description import (
    CREDENTIALS,
    LAUNCHD,
    MARK,
    SUPERVISOR_VARIABLE,
    Role,
    Service,
)
from hat.service.install import install, refuse_unreadable, status, uninstall
from hat.service.launchd import plist_text
from hat.service.place import Machine, Words, place_of
from hat.service.systemd import unit_text
from hat.settings.options import sources_of
from hat.settings.programs import CLOUD, DEVICE, Program
from hat.settings.sources import Resolved, Sources, load
from process.errors import ConfigError
from submodels.split import SplitOptions, split_checkpoint
from tests.support.examples import at_most
from tests.support.setting_values import as_text, values_of

STORIES = Path(__file__).resolve().parents[2] / "models" / "stories260k"
INSTALLATION = Installation(Path("/opt/hat/bin/python"), (Path("/opt/hat"), Path("/usr")))
LINUX = Machine("linux", 0, Path("/root"), Path("/root/.config"))
ROLES: list[tuple[Program[Any], Role]] = [(CLOUD, "cloud"), (DEVICE, "device")]


def _resolved(program: Program[Any], **flags: str) -> Resolved[Any]:
    return load(program, Sources({"bundle": "/srv/bundle", **flags}, {}))


def _service(program: Program[Any] = CLOUD, *, user: bool = False, **flags: str) -> Service:
    role: Role = "cloud" if program is CLOUD else "device"
    resolved = _resolved(program, **flags)
    return service_of(resolved, role, INSTALLATION, user=user, accelerator=False)


def _lines(text: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def _words_of(unit: str) -> list[str]:
    """The command line as systemd reads it: quotes, and doubled percent and dollar signs."""
    [command] = _lines(unit, "ExecStart")
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(command)]


@pytest.mark.parametrize(("program", "role"), ROLES)
@settings(max_examples=at_most(40), deadline=None)
@given(data=st.data())
def test_a_service_runs_the_program_with_the_settings_that_were_given(
    program: Program[Any], role: Role, data: st.DataObject
) -> None:
    kinds = [s for s in program.settings if not s.about.secret and s.name != "kept_sessions_folder"]
    values = {s.name: data.draw(values_of(s)) for s in data.draw(st.lists(st.sampled_from(kinds)))}
    flags = {
        s.key: "true" if values[s.name] is True else as_text(values[s.name])
        for s in kinds
        if s.name in values and values[s.name] is not False
    }
    given_here = load(program, Sources({"bundle": "/srv/b", **flags}, {}))
    made = service_of(given_here, role, INSTALLATION, user=True, accelerator=False)

    words = _words_of(unit_text(made))

    assert words[:5] == ["/opt/hat/bin/python", "-I", "-m", "hat", role]
    context = hat.commands[role].make_context(role, words[5:])
    read = load(program, sources_of(program, context.params))
    assert {n: g.value for n, g in read.given.items()} == {
        n: g.value for n, g in given_here.given.items()
    }


def test_a_system_service_gets_copies_of_secret_files_and_is_shown_hidden_folders(
    tmp_path: Path,
) -> None:
    secret = tmp_path / "the secret"
    secret.write_text("letters-and-more\n")
    made = _service(secret_file=str(secret), bundle="/home/ann/llama/cloud", tls_key="/etc/key.pem")

    unit = unit_text(made)

    assert f"LoadCredential=secret:{secret}" in unit.splitlines()
    assert "LoadCredential=tls_key:/etc/key.pem" in unit
    words = _words_of(unit)
    assert words[words.index("--secret-file") + 1] == f"{CREDENTIALS}/secret"
    assert _lines(unit, "BindReadOnlyPaths") == ["/home/ann/llama/cloud"]
    assert str(secret) not in " ".join(words)
    assert "letters-and-more" not in unit


def test_what_is_hidden_and_needed_is_shown_and_nothing_else() -> None:
    home = Installation(Path("/home/ann/.venv/bin/python"), (Path("/home/ann/.venv"), Path("/usr")))
    made = service_of(_resolved(CLOUD), "cloud", home, user=False, accelerator=False)
    assert _lines(unit_text(made), "BindReadOnlyPaths") == ["/home/ann/.venv"]


def test_a_users_service_reads_its_files_where_they_lie(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("letters\n")
    made = _service(DEVICE, user=True, secret_file=str(secret), kept_sessions_folder="/home/a/kept")
    unit = unit_text(made)
    assert str(secret) in _words_of(unit)
    assert _lines(unit, "ReadWritePaths") == ["/home/a/kept"]
    assert not _lines(unit, "LoadCredential")
    assert not _lines(unit, "DynamicUser")


def test_a_system_service_has_what_it_writes_or_reads_again_in_its_own_folder_only() -> None:
    made = _service(DEVICE, kept_sessions_folder="/var/lib/hat-device/kept")
    assert made.writable == ()
    assert made.credentials == {}
    with pytest.raises(ConfigError, match=r"below /var/lib/hat-device, .*got /home/ann/kept"):
        _service(DEVICE, kept_sessions_folder="/home/ann/kept")
    named = _service(tokens_file="/var/lib/hat-cloud/tokens.json")
    assert "/var/lib/hat-cloud/tokens.json" in named.command
    assert named.credentials == {}
    with pytest.raises(ConfigError, match=r"^--tokens-file: .*got /etc/hat/tokens.json"):
        _service(tokens_file="/etc/hat/tokens.json")
    assert "/etc/hat/tokens.json" in _service(user=True, tokens_file="/etc/hat/tokens.json").command


def test_a_secret_that_lies_in_no_file_is_refused() -> None:
    resolved = load(CLOUD, Sources({"bundle": "/b"}, {"HAT_SECRET": "letters-and-more"}))
    with pytest.raises(ConfigError, match="from a file, for --secret-file") as refused:
        service_of(resolved, "cloud", INSTALLATION, user=True, accelerator=False)
    assert "letters" not in str(refused.value)


def test_signs_that_mean_something_to_systemd_mean_themselves() -> None:
    text = '{"a": "100%n of $HOME, ${X}; \\\\ \\" "}'
    unit = unit_text(_service(vllm_args=text))
    [command] = _lines(unit, "ExecStart")
    assert "100%%n" in command
    assert "$$HOME" in command
    assert "$${X}" in command
    words = _words_of(unit)
    assert words[words.index("--vllm-args") + 1] == text


def test_a_line_break_cannot_add_a_line_to_a_unit() -> None:
    with pytest.raises(ConfigError, match="no line breaks"):
        unit_text(_service(vllm_args='{"a":\n1}'))


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize(("program", "role"), ROLES)
def test_units_are_hardened(
    program: Program[Any], role: Role, accelerator: bool, user: bool
) -> None:
    made = service_of(_resolved(program), role, INSTALLATION, user=user, accelerator=accelerator)
    unit = unit_text(made)
    assert unit.startswith(f"# {MARK}\n")
    assert _lines(unit, "NoNewPrivileges") == ["yes"]
    assert _lines(unit, "ProtectSystem") == ["strict"]
    assert _lines(unit, "DynamicUser") == ([] if user else ["yes"])
    assert _lines(unit, "CapabilityBoundingSet") == ([] if user else [""])
    assert bool(_lines(unit, "PrivateDevices")) is not accelerator
    # torch compiles while it runs.
    assert bool(_lines(unit, "MemoryDenyWriteExecute")) is (role == "device" and not accelerator)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("role", ["cloud", "device"])
def test_systemd_itself_finds_no_fault_in_a_unit(role: Role, user: bool, tmp_path: Path) -> None:
    # Somewhere else than the installation under test, and surely there.
    here = Installation(Path(sys.executable), (Path(sys.prefix),))
    resolved = _resolved(CLOUD if role == "cloud" else DEVICE, host="0.0.0.0")
    made = service_of(resolved, role, here, user=user, accelerator=role == "cloud")
    file = tmp_path / f"{made.name}.service"
    file.write_text(unit_text(made))
    scope = "--user" if user else "--system"

    verified = _analyze("verify", scope, "--man=no", str(file), runtime=tmp_path)

    # What it says of other units on this machine is not about ours.
    assert [line for line in verified.splitlines() if file.name in line] == []
    file.write_text(unit_text(made) + "[Service]\nProtectSystem=perhaps\n")
    found = _analyze("verify", scope, "--man=no", str(file), runtime=tmp_path)
    assert f"{file.name}:" in found, "a fault would have been seen"
    file.write_text(unit_text(made))
    if not user:
        # Tenths: 92 is a service without any of it, 20 is what systemd calls OK.
        said = _analyze(
            "security",
            "--offline=true",
            "--threshold=20",
            "--no-pager",
            str(file),
            runtime=tmp_path,
        )
        assert "Overall exposure level" in said, said
        assert " OK " in said


def _analyze(*words: str, runtime: Path) -> str:
    environment = os.environ | {"XDG_RUNTIME_DIR": str(runtime)}
    command = ["systemd-analyze", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    return done.stdout + done.stderr


def test_a_property_list_runs_the_same_command_and_writes_where_its_user_may() -> None:
    made = _service(DEVICE, user=True, cloud="wss://gpu:7700")
    text = plist_text(made, Path("/Users/ann"))
    assert MARK in text
    read = plistlib.loads(text.encode())
    assert read["Label"] == "hat.device"
    assert read["ProgramArguments"] == list(made.command)
    assert read["StandardErrorPath"] == "/Users/ann/Library/Logs/hat-device.log"
    assert read["KeepAlive"] == {"SuccessfulExit": False}
    # What is not to be started again has to end with 0 there: see `as_supervisor_reads`.
    assert read["EnvironmentVariables"][SUPERVISOR_VARIABLE] == LAUNCHD
    assert read["Umask"] == 0o077


def test_services_go_where_their_supervisor_looks() -> None:
    assert place_of("hat-cloud", LINUX, user=False).file == Path(
        "/etc/systemd/system/hat-cloud.service"
    )
    ann = Machine("linux", 1000, Path("/home/ann"), Path("/home/ann/.config"))
    own = place_of("hat-device", ann, user=True)
    assert own.file == Path("/home/ann/.config/systemd/user/hat-device.service")
    assert all(words[:2] == ("systemctl", "--user") for words in (*own.start, *own.stop))
    mac = Machine("darwin", 501, Path("/Users/ann"), Path("/Users/ann/.config"))
    agent = place_of("hat-device", mac, user=True)
    assert agent.file == Path("/Users/ann/Library/LaunchAgents/hat.device.plist")
    assert agent.start == (("launchctl", "bootstrap", "gui/501", str(agent.file)),)
    with pytest.raises(CommandError, match="use sudo, or --user"):
        place_of("hat-cloud", ann, user=False)
    with pytest.raises(CommandError, match="add --user"):
        place_of("hat-cloud", mac, user=False)
    with pytest.raises(CommandError, match="systemd"):
        place_of("hat-cloud", Machine("win32", 0, Path(), Path()), user=True)


class _Supervisor:
    """Remembers what it was told, and answers the same to everything."""

    def __init__(self, status: int = 0, said: str = "") -> None:
        self.told: list[Words] = []
        self._answer = status, said

    def __call__(self, words: Words, /) -> tuple[int, str]:
        self.told.append(words)
        return self._answer


def _place(tmp_path: Path) -> Any:
    units = tmp_path / "units"
    machine = Machine("linux", 0, tmp_path, tmp_path / "config", units)
    return place_of("hat-cloud", machine, user=False)


def test_a_service_is_written_started_written_anew_asked_and_removed(tmp_path: Path) -> None:
    place, supervisor, said = _place(tmp_path), _Supervisor(), []
    install(place, f"# {MARK}\none\n", supervisor, said.append)
    install(place, f"# {MARK}\ntwo\n", supervisor, said.append)
    assert place.file.read_text() == f"# {MARK}\ntwo\n"
    assert place.file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in place.file.parent.iterdir()] == ["hat-cloud.service"]
    assert [words[1] for words in supervisor.told] == ["daemon-reload", "enable", "restart"] * 2
    assert status(place, supervisor, said.append)
    uninstall(place, supervisor, said.append)
    assert not place.file.exists()
    assert [words[1] for words in supervisor.told[-2:]] == ["disable", "daemon-reload"]
    assert not status(place, supervisor, said.append)
    with pytest.raises(CommandError, match="there is no"):
        uninstall(place, supervisor, said.append)


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "folder"])
def test_what_is_not_ours_stays_as_it_is(kind: str, tmp_path: Path) -> None:
    place, supervisor = _place(tmp_path), _Supervisor()
    place.file.parent.mkdir(parents=True)
    other = tmp_path / "other"
    other.write_text(f"# {MARK}\n" if kind == "link" else "[Unit]\n")
    if kind == "file":
        shutil.copy(other, place.file)
    elif kind == "folder":
        place.file.mkdir()
    else:
        place.file.symlink_to(other if kind == "link" else tmp_path / "nowhere")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for act in (
        lambda: install(place, f"# {MARK}\n", supervisor, lambda _: None),
        lambda: uninstall(place, supervisor, lambda _: None),
    ):
        with pytest.raises(CommandError, match="not from hat service install"):
            act()
    assert supervisor.told == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_supervisor_that_refuses_is_quoted_and_one_that_says_no_is_no_success(
    tmp_path: Path,
) -> None:
    place, supervisor = _place(tmp_path), _Supervisor(1, "inactive\n")
    with pytest.raises(CommandError, match="systemctl daemon-reload: exit 1: inactive"):
        install(place, f"# {MARK}\n", supervisor, lambda _: None)
    said: list[str] = []
    assert not status(place, supervisor, said.append)
    assert said[0].startswith("does not run (inactive)")


def test_what_the_service_could_not_read_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir(mode=0o755)
    (bundle / "hat.json").touch(0o644)
    refuse_unreadable(_service(), [bundle])
    (bundle / "hat.json").chmod(0o600)
    with pytest.raises(CommandError, match=r"cannot read .*hat.json: chmod -R o\+rX"):
        refuse_unreadable(_service(), [bundle])
    refuse_unreadable(_service(user=True), [bundle])
    open_folder = tmp_path / "open"
    open_folder.mkdir(mode=0o755)
    with pytest.raises(CommandError, match=r"cannot read .*hat.json"):
        refuse_unreadable(_service(), [open_folder, bundle])
    with pytest.raises(CommandError, match="folder of a bundle"):
        refuse_unreadable(_service(user=True), [tmp_path / "none"])
    with pytest.raises(CommandError, match=r"expected a file, found none at /none/key\.pem"):
        refuse_unreadable(_service(tls_key="/none/key.pem"), [bundle])


def test_the_command_prints_writes_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HAT_DEVICE_PORT", "9999")
    split_checkpoint(SplitOptions(str(STORIES), tmp_path / "out", 1, onnx_weights=()))
    bundle, file = tmp_path / "out" / "device", tmp_path / "hat.toml"
    file.write_text('[device]\nbundle = "out/device"\ncloud = "wss://gpu:7700"\n')
    words = ["service", "install", "device", "--user", "--config", str(file), "--port", "8001"]

    printed = CliRunner().invoke(hat, [*words, "--print"])
    assert printed.exit_code == 0, printed.output
    assert _words_of(printed.output)[5:] == [
        str(bundle), "--port", "8001", "--cloud", "wss://gpu:7700",
    ]  # fmt: skip
    assert not (tmp_path / "config").exists()

    written = CliRunner().invoke(hat, [*words, "--no-start"])
    assert written.exit_code == 0, written.output
    unit = tmp_path / "config" / "systemd" / "user" / "hat-device.service"
    assert unit.read_text() == printed.output

    monkeypatch.setenv("HAT_CONFIG", str(file))
    refused = CliRunner().invoke(hat, ["service", "install", "device", "--user", str(bundle)])
    assert "HAT_CONFIG is set" in str(refused.exception)
    wrong = CliRunner().invoke(hat, [*words, "--weights", "int2", "--print"])
    assert wrong.exit_code != 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("cloud", "--host", "0.0.0.0"), "unencrypted on 0.0.0.0: give it --tls-self-signed"),
        (("device", "--cloud", "ws://gpu:7700"), "to gpu unencrypted: use wss://"),
    ],
)
def test_what_would_not_start_without_tls_is_not_installed(
    words: tuple[str, ...], told: str
) -> None:
    role, *flags = words
    refused = CliRunner().invoke(hat, ["service", "install", role, "bundle", "--print", *flags])
    assert refused.exit_code != 0
    assert told in str(refused.exception)
    spelled = [*flags, "--tls-self-signed"] if role == "cloud" else [*flags, "--insecure"]
    taken = CliRunner().invoke(hat, ["service", "install", role, "bundle", "--print", *spelled])
    assert taken.exit_code == 0, taken.output
