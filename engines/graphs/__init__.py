"""ONNX graphs without their weights: reading, tensor shapes, peak memory, mixtures of two."""
