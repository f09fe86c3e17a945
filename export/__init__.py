"""From torch checkpoints to bundles of ONNX graphs; the only part of covis that needs torch."""
