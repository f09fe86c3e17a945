"""NVIDIA TensorRT: parser graphs, builds, the proof of a built engine, plans on disk."""
