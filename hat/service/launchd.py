"""A service as a property list of launchd, for the user's own session on macOS."""

import plistlib
from pathlib import Path

from hat.service.description import LAUNCHD, MARK, SUPERVISOR_VARIABLE, Service

_HEAD_END = b'PropertyList-1.0.dtd">\n'


def label(service_name: str) -> str:
    """What launchd calls a service: `hat-cloud` is `hat.cloud` there."""
    return service_name.replace("-", ".", 1)


def plist_text(service: Service, home: Path) -> str:
    """The whole property list, with our mark in a comment."""
    log = home / "Library" / "Logs" / f"{service.name}.log"
    tables = {
        "Label": label(service.name),
        "ProgramArguments": list(service.command),
        "EnvironmentVariables": {
            "PYTHONUNBUFFERED": "1",
            "DO_NOT_TRACK": "1",
            SUPERVISOR_VARIABLE: LAUNCHD,
        },
        "RunAtLoad": True,
        # Again after a failure, and neither after it was told to stop nor where the next start
        # would fail as this one, which the program says by 0 as well.
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": 60,
        "ProcessType": "Interactive",
        "SoftResourceLimits": {"NumberOfFiles": 8192},
        # 0077, which a property list has in decimal.
        "Umask": 0o077,
        "WorkingDirectory": "/",
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
    }
    head, end, rest = plistlib.dumps(tables, sort_keys=False).partition(_HEAD_END)
    return (head + end + f"<!-- {MARK} -->\n".encode() + rest).decode()
