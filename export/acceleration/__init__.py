"""Sparse global attention of covis inside a user's own PyTorch model.

Works on the modules of the public VGGT, Pi3 and MapAnything packages by their structure and
attribute names, without importing them; see docs/how-to/accelerate-a-torch-model.md.
"""

from covis.export.acceleration.handle import Accelerated, accelerate, restore
from covis.export.acceleration.report import LayerReport, Report

__all__ = ["Accelerated", "LayerReport", "Report", "accelerate", "restore"]
