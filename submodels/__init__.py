"""One checkpoint, three parts: plan, split, bundles, layers, ONNX graphs."""

from submodels.no_telemetry import switch_off_telemetry

switch_off_telemetry()
