"""Execution of the stages of a bundle: ONNX Runtime and TensorRT."""
