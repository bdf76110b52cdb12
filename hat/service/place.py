"""Where a service's file belongs, and what its supervisor is told, by system."""

from dataclasses import dataclass
from pathlib import Path

from hat.errors import CommandError
from hat.service.description import Service
from hat.service.launchd import label, plist_text
from hat.service.systemd import unit_text

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """What of a machine decides where services go."""

    platform: str
    """As `sys.platform` has it."""

    user_id: int
    home: Path
    """Of the user who installs."""

    configuration: Path
    """Where the user's programs have their configuration: XDG_CONFIG_HOME or ~/.config."""

    units: Path = Path("/etc/systemd/system")
    """The administrator's units."""


@dataclass(frozen=True, slots=True)
class Place:
    """A service's file and the commands of its supervisor, each as the words of a command line."""

    file: Path
    start: tuple[Words, ...]
    """From a written file to a running service, and after a restart of the machine too."""

    stop: tuple[Words, ...]
    """The other way, before the file is removed. What is not there may fail."""

    forget: tuple[Words, ...]
    """After it has been removed."""

    ask: Words
    """Exits with 0 while the service runs."""

    log: str
    """How its user reads what it said."""


def place_of(name: str, machine: Machine, *, user: bool) -> Place:
    """Where the service of this name goes.

    Raises:
        CommandError: this system has no supervisor that is known here, or wants other rights.
    """
    if machine.platform == "darwin":
        if not user:
            raise CommandError("on macOS a service belongs to a user here: add --user")
        return _launch_agent(name, machine)
    if machine.platform != "linux":
        raise CommandError("services are installed for systemd (Linux) and launchd (macOS) only")
    if not user and machine.user_id != 0:
        raise CommandError("a system service is root's: use sudo, or --user for one of your own")
    return _unit(name, machine, user)


def text_of(service: Service, machine: Machine) -> str:
    """The service's file, whole."""
    if machine.platform == "darwin":
        return plist_text(service, machine.home)
    return unit_text(service)


def _unit(name: str, machine: Machine, user: bool) -> Place:
    systemctl: Words = ("systemctl", "--user") if user else ("systemctl",)
    journal = "journalctl --user" if user else "journalctl"
    unit = f"{name}.service"
    folder = machine.configuration / "systemd" / "user" if user else machine.units
    reload = (*systemctl, "daemon-reload")
    return Place(
        folder / unit,
        # Restarted, so that a changed file takes effect where it runs already.
        (reload, (*systemctl, "enable", unit), (*systemctl, "restart", unit)),
        ((*systemctl, "disable", "--now", unit),),
        (reload,),
        (*systemctl, "is-active", unit),
        f"{journal} -u {name}",
    )


def _launch_agent(name: str, machine: Machine) -> Place:
    domain = f"gui/{machine.user_id}"
    file = machine.home / "Library" / "LaunchAgents" / f"{label(name)}.plist"
    bootout = ("launchctl", "bootout", f"{domain}/{label(name)}")
    return Place(
        file,
        (("launchctl", "bootstrap", domain, str(file)),),
        (bootout,),
        (),
        ("launchctl", "print", f"{domain}/{label(name)}"),
        f"tail {machine.home / 'Library' / 'Logs' / name}.log",
    )
