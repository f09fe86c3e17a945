"""Comparison of two runs: tensor by tensor, stage by stage, scene by scene."""
