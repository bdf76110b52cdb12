"""Workloads, live runs over a shaped link, simulator, reports."""

from submodels.no_telemetry import switch_off_telemetry

switch_off_telemetry()
