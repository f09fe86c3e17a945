"""Copies of a bundle's graphs that TensorRT's ONNX parser can read."""
