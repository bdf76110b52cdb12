"""What runs beside the user: sessions, acceptance, drafting, engines, link, driver."""

from submodels.no_telemetry import switch_off_telemetry

switch_off_telemetry()
