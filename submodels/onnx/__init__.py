"""Device submodels as ONNX graphs."""
