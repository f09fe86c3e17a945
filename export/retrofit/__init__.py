"""The project's sparse global attention inside a user's own PyTorch model.

Works on the modules of the public VGGT, Pi3 and MapAnything packages by their structure and
attribute names, without importing them; see docs/accelerate.md.
"""

from covis.export.retrofit.accelerated import Accelerated, accelerate, restore
from covis.export.retrofit.report import LayerReport, Report

__all__ = ["Accelerated", "LayerReport", "Report", "accelerate", "restore"]
