"""The ops of this project as runtimes see them: their ONNX domain and version, and size limits."""

from __future__ import annotations

from typing import Final

DOMAIN: Final = "covis"  # of the two ops, in every exported graph
VERSION: Final = 1  # of their contracts in plugins/; a change of their meaning raises it
MOST_ELEMENTS: Final = 2**31 - 1  # of one tensor: TensorRT counts them in 31 bits
