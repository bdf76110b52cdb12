"""The one command line, and both sides on one machine."""

from submodels.no_telemetry import switch_off_telemetry

switch_off_telemetry()
