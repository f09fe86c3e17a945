"""Builds of TensorRT engines: options, requests, one engine, all stages of a bundle."""
