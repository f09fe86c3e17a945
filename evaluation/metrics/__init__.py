"""Metrics of cameras, depth and point clouds, with numpy alone."""
