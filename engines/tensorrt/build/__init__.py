"""Builds of TensorRT engines: options, one engine, all stages of a bundle."""
