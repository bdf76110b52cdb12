"""The one command line, and both sides on one machine."""

from hat.rooms import foreign_rooms

__version__ = "0.1.0"
"""The version of the whole project; the package's metadata takes it from here."""


def _switch_off_telemetry() -> None:
    if any(foreign_rooms()):
        # The commands say so and end; whoever only asks for the version may have it.
        return
    from submodels.no_telemetry import switch_off_telemetry

    switch_off_telemetry()


_switch_off_telemetry()
