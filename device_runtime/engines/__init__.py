"""The input and output submodels and the drafting adapter on ONNX Runtime or torch."""
