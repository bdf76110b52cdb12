"""One checkpoint, three parts: plan, split, bundles, layers, ONNX graphs."""
