"""What runs beside the GPU: sessions, scheduler, KV accounting, engines, app, metrics."""

from submodels.no_telemetry import switch_off_telemetry

switch_off_telemetry()
