"""`hat service`: both programs as services that start with the machine or its user."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from cloud_server.config import CloudConfig
from cloud_server.exposure import exposure_of as exposure_of_cloud
from device_runtime.config import DeviceConfig
from device_runtime.exposure import exposure_of as exposure_of_device
from hat.errors import CommandError, failures_explained
from hat.service.command_line import OWN_FOLDER, Installation, service_of
from hat.service.description import Role, Service
from hat.service.install import (
    Supervisor,
    install,
    refuse_other_bundle,
    refuse_unreadable,
    status,
    uninstall,
)
from hat.service.place import Machine, Words, place_of, text_of
from hat.settings.options import CONFIG_VARIABLE, settings_options, sources_of
from hat.settings.print_config import as_toml
from hat.settings.programs import CLOUD, DEVICE, C, Program
from hat.settings.sources import Sources, load, unheard
from process.errors import ConfigError
from process.listening.limits import Limits

_EPILOG = """
\b
Examples:
  sudo hat service install cloud /srv/llama-8b/cloud --host 0.0.0.0 --tls-self-signed \\
    --secret-file /etc/hat/secret
  hat service install device --user llama-8b/device --cloud wss://gpu-server:7700
  hat service install device --print llama-8b/device      # what would be written
  hat service status device --user
  hat service uninstall device --user

Settings are read now, from flags and --config, and stand in the service's file. Nothing of the
environment is taken, and a variable that says what no flag does is refused. A system service has a
user of its own, and gets copies of the files with secrets from systemd; after such a file changed,
install again or restart the service.
"""

_DEVICE: Role = "device"
_ROLE = click.argument("role", type=click.Choice(["cloud", "device"]))
_USER = click.option(
    "--user", is_flag=True, help="A service of this user alone, without root's rights."
)


@click.group(epilog=_EPILOG)
def service() -> None:
    """Run cloud or device as a service of systemd (Linux) or launchd (macOS)."""


@service.group(name="install", epilog=_EPILOG)
def install_group() -> None:
    """Write a service with these settings, and start it now and with the machine."""


def _install_command(program: Program[C], role: Role, accelerator: bool) -> None:
    @install_group.command(name=role)
    @_USER
    @click.option("--print", "only_print", is_flag=True, help="Print the file, and do nothing.")
    @click.option("--no-start", is_flag=True, help="Write the file only.")
    @click.option(
        "--accelerator/--no-accelerator",
        default=accelerator,
        show_default=True,
        help="Whether it may open GPUs and the like.",
    )
    @settings_options(program)
    def command(
        user: bool, only_print: bool, no_start: bool, accelerator: bool, **parameters: Any
    ) -> None:
        with failures_explained():
            machine = _machine()
            made, folders = _service(program, role, parameters, user, accelerator)
            if parameters["print_config"]:
                click.echo(as_toml(load(program, _sources(program, parameters))))
            elif only_print:
                click.echo(text_of(made, machine), nl=False)
            else:
                place = place_of(made.name, machine, user=user)
                refuse_unreadable(made, list(folders.values()))
                for name, kind in (("bundle", role), ("serve_device_bundle", _DEVICE)):
                    if name in folders:
                        refuse_other_bundle(folders[name], kind)
                for folder in made.writable:
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                supervisor = None if no_start else _supervisor(place.ask)
                install(place, text_of(made, machine), supervisor, click.echo)

    command.help = f"Write a service that runs `hat {role}` with these settings, and start it."


_install_command(CLOUD, "cloud", accelerator=True)
_install_command(DEVICE, "device", accelerator=False)


@service.command(name="uninstall")
@_ROLE
@_USER
def uninstall_command(role: str, user: bool) -> None:
    """Stop a service and remove its file."""
    with failures_explained():
        place = place_of(f"hat-{role}", _machine(), user=user)
        has_supervisor = shutil.which(place.ask[0]) is not None
        uninstall(place, _run if has_supervisor else None, click.echo)


@service.command(name="status")
@_ROLE
@_USER
def status_command(role: str, user: bool) -> None:
    """Say whether a service is installed and runs. Exit code 1: it does not run."""
    with failures_explained():
        # Whoever may ask need not be root.
        place = place_of(f"hat-{role}", _machine(as_root=True), user=user)
        if not status(place, _supervisor(place.ask), click.echo):
            raise CommandError(f"hat-{role} does not run")


def _service(
    program: Program[C], role: Role, parameters: dict[str, Any], user: bool, accelerator: bool
) -> tuple[Service, dict[str, Path]]:
    """The service, and the folders of bundles that it reads, by their settings."""
    resolved = load(program, _sources(program, parameters))
    # Whatever the program would refuse in its settings is refused now.
    for note in (*resolved.notes, *_exposed(resolved.config())):
        click.echo(f"hat: {note}", err=True)
    made = service_of(resolved, role, _installation(), user=user, accelerator=accelerator)
    given = {name: each.value for name, each in resolved.given.items() if name not in OWN_FOLDER}
    paths = {name: value.absolute() for name, value in given.items() if isinstance(value, Path)}
    folders = {name: path for name, path in paths.items() if name == "bundle" or path.is_dir()}
    return made, folders


def _exposed(config: object) -> list[str]:
    """What the program would say at its start of whom its settings let in.

    Raises:
        CommandError: it would not start with them, however often it is started again.
    """
    if isinstance(config, CloudConfig):
        most = config.max_connections
        has_names, now = config.tokens_file is not None, datetime.now(UTC)
        notices = exposure_of_cloud(config, Limits(most, most), now, has_names)
    else:
        assert isinstance(config, DeviceConfig)
        notices = exposure_of_device(config)
    for notice in notices:
        if notice.fatal:
            raise CommandError(notice.text)
    return [notice.text for notice in notices]


def _sources(program: Program[C], parameters: dict[str, Any]) -> Sources:
    """Flags and a TOML file, and nothing of the environment of whoever installs.

    Raises:
        ConfigError: a variable says what neither of them does; without it the service would be
            another one than its installer has in mind, such as one that anybody may use.
    """
    found = sources_of(program, parameters)
    if parameters["config"] is None and os.environ.get(CONFIG_VARIABLE):
        raise CommandError(f"{CONFIG_VARIABLE} is set: a service takes --config {found.file}")
    sources = Sources(found.flags, {}, found.file)
    left_out = unheard(load(program, sources), found.environ)
    for setting, variable in left_out.items():
        name = setting.name.upper() if setting.about.argument else setting.flag
        what = "a file" if setting.about.secret else "its value"
        raise ConfigError(
            f"{variable} is set: a service takes nothing of the environment; give {name} with "
            f"{what}, or unset the variable"
        )
    return sources


def _installation() -> Installation:
    packages = Path(__file__).resolve().parents[2]
    folders = (Path(sys.prefix), Path(sys.base_prefix), packages)
    return Installation(Path(sys.executable), tuple(dict.fromkeys(folders)))


def _machine(*, as_root: bool = False) -> Machine:
    home = Path.home()
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    user_id = 0 if as_root and sys.platform == "linux" else getattr(os, "geteuid", lambda: 0)()
    return Machine(sys.platform, user_id, home, configuration)


def _supervisor(words: Words) -> Supervisor:
    if shutil.which(words[0]) is None:
        raise CommandError(f"there is no {words[0]} here: add --no-start to write the file only")
    return _run


def _run(words: Words) -> tuple[int, str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr
