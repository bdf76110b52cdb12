"""A service as a unit of systemd that may do nothing but what the program needs."""

from collections.abc import Iterator
from pathlib import Path

from hat.service.description import CREDENTIALS, MARK, Service
from process.errors import ConfigError

_ABOUT = {
    "cloud": "hat cloud: the middle layers of a language model",
    "device": "hat device: a language model's OpenAI-compatible endpoint",
}

_STARTING = """\
Type=exec
Restart=on-failure
RestartSec=5
# 2: somebody has to mend something first, such as a setting or a bundle that is not there.
RestartPreventExitStatus=2
# Above the drain of 30 s and what it takes to stop an engine.
TimeoutStopSec=60
KillMode=mixed
LimitNOFILE=65536
UMask=0077"""

_ENVIRONMENT = (
    "PYTHONUNBUFFERED=1",
    "DO_NOT_TRACK=1",
    "ORT_DISABLE_TELEMETRY=1",
    "HF_HUB_DISABLE_TELEMETRY=1",
    "HF_HUB_OFFLINE=1",
)

_SYSTEM = """\
# A user that exists while the service runs, and owns nothing.
DynamicUser=yes
ProtectHome=tmpfs
PrivateTmp=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
CapabilityBoundingSet="""

_USER = """\
# Namespaces of a user's own service need one for users as well.
PrivateUsers=yes
ProtectHome=read-only
PrivateTmp=yes"""

_BOTH = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
KeyringMode=private
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @mount @reboot @swap @debug
SystemCallErrorNumber=EPERM"""

_ACCELERATOR = """\
# GPUs and the like, and no other device.
DevicePolicy=closed
DeviceAllow=char-nvidia rw
DeviceAllow=char-nvidia-frontend rw
DeviceAllow=char-nvidia-uvm rw
DeviceAllow=char-nvidia-caps rw
DeviceAllow=char-drm rw
DeviceAllow=char-kfd rw
DeviceAllow=char-accel rw"""

_WRITTEN_AND_RUN = ("cloud",)
"""Programs whose libraries compile while they run, into memory that is then executed: torch's."""


def unit_text(service: Service) -> str:
    """The whole unit file.

    Raises:
        ConfigError: a word of the command line or a path has what no unit can hold.
    """
    return "\n".join([f"# {MARK}", "[Unit]", *_unit(service), "", *_service(service), ""])


def _unit(service: Service) -> Iterator[str]:
    yield f"Description={_ABOUT[service.role]}"
    if not service.user:
        yield "Wants=network-online.target"
        yield "After=network-online.target"
    # However often it ends, it is started again.
    yield "StartLimitIntervalSec=0"


def _service(service: Service) -> Iterator[str]:
    yield "[Service]"
    program, *arguments = service.command
    yield " ".join([f"ExecStart={_program(program)}", *map(_command_word, arguments)])
    yield _STARTING
    for assignment in _ENVIRONMENT:
        yield f"Environment={assignment}"
    yield f"Environment=HAT_CACHE=%C/{service.name}"
    yield f"CacheDirectory={service.name}"
    yield f"StateDirectory={service.name}"
    yield "CacheDirectoryMode=0700"
    yield "StateDirectoryMode=0700"
    for name, path in service.credentials.items():
        yield f"LoadCredential={name}:{_rest_of_line(path)}"
    yield from _hardening(service)
    for path in service.read_only:
        yield f"BindReadOnlyPaths={_path(path)}"
    for path in service.writable:
        yield f"ReadWritePaths={_path(path)}"
    yield ""
    yield "[Install]"
    yield f"WantedBy={'default' if service.user else 'multi-user'}.target"


def _hardening(service: Service) -> Iterator[str]:
    yield _USER if service.user else _SYSTEM
    yield _BOTH
    if service.role not in _WRITTEN_AND_RUN and not service.accelerator:
        yield "MemoryDenyWriteExecute=yes"
    if service.accelerator:
        if not service.user:
            yield _ACCELERATOR
    else:
        yield "PrivateDevices=yes"


def _program(path: str) -> str:
    """The first word of ExecStart, in which systemd replaces no variable.

    Raises:
        ConfigError: systemd runs no program of such a path, however it is written.
    """
    if any(character in "\"'\\" for character in path):
        raise ConfigError(
            f"systemd runs no program in a folder with quotes or backslashes, got {path}: "
            "install hat into an environment somewhere else"
        )
    return path.replace("%", "%%") if _is_plain(path) else _quoted(path)


def _command_word(word: str) -> str:
    """A word of ExecStart: its one variable is replaced, nothing else is anything but itself."""
    kept = CREDENTIALS in word
    text = word.replace(CREDENTIALS, "\0").replace("$", "$$").replace("\0", CREDENTIALS)
    return _quoted(text) if kept or not _is_plain(text) else text.replace("%", "%%")


def _path(path: Path) -> str:
    """One of a list of paths, in which a colon would part it from another."""
    text = str(path)
    return text.replace("%", "%%") if _is_plain(text) and ":" not in text else _quoted(text)


def _rest_of_line(path: Path) -> str:
    """A path where systemd takes all that follows as it is: there quotes are a part of it.

    Raises:
        ConfigError: it has a line break, or an end that systemd leaves out.
    """
    text = str(path)
    if any(ord(character) < 32 for character in text) or text != text.rstrip().rstrip("\\"):
        expected = "expected no line break and no blank or backslash at the end"
        raise ConfigError(f"{expected} of what a unit names, got {text!r}")
    return text.replace("%", "%%")


def _is_plain(text: str) -> bool:
    return bool(text) and all(c.isalnum() or c in "/._-=+,@:%~[]" for c in text)


def _quoted(text: str) -> str:
    if any(ord(character) < 32 for character in text):
        raise ConfigError(f"expected no line breaks in what a unit names, got {text!r}")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
