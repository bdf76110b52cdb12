"""The drafting adapter: networks, distillation, evaluation."""
