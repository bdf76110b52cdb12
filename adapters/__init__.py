"""The drafting adapter: networks, distillation, evaluation."""

from submodels.no_telemetry import switch_off_telemetry

switch_off_telemetry()
