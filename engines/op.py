"""Domain, version, attributes and size limit of the three ops.

The contracts in `plugins/` define the meaning of every attribute. This module is the one place on
the Python side that spells their names and defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

DOMAIN: Final = "covis"  # ONNX domain of the three ops in every exported graph
VERSION: Final = 1  # version of the contracts in plugins/; a change of their meaning raises it
MOST_ELEMENTS: Final = 2**31 - 1  # elements of one tensor, because TensorRT counts them in 31 bits

ATTENTION: Final = "BlockSparseAttention"
SELECT: Final = "BlockSelect"
FARTHEST: Final = "FarthestFirst"  # has no attributes

LAYOUT_ATTRIBUTES: Final[Mapping[str, int]] = MappingProxyType(
    {"frame_tokens": 1, "special_first": 0, "special_last": 0, "trailing_tokens": 0}
)
"""Names and defaults of the attributes that describe the order of tokens in a sequence."""

ATTENTION_ATTRIBUTES: Final[Mapping[str, int | float]] = MappingProxyType(
    {**LAYOUT_ATTRIBUTES, "q_block": 1, "k_block": 1, "scale": 0.0}
)
"""Names and defaults of the attributes of `BlockSparseAttention`; scale 0 means 1 / sqrt(D)."""

SELECT_ATTRIBUTES: Final[Mapping[str, int | str]] = MappingProxyType(
    {**LAYOUT_ATTRIBUTES, "q_block": 128, "k_block": 64, "pool": "mean"}
)
"""Names and defaults of the attributes of `BlockSelect`; pool is "mean" or "max"."""

ATTRIBUTES: Final[Mapping[str, Mapping[str, int | float | str]]] = MappingProxyType(
    {ATTENTION: ATTENTION_ATTRIBUTES, SELECT: SELECT_ATTRIBUTES, FARTHEST: {}}
)
"""Names and defaults of the attributes by op."""


def keep_ratio_input(ratio: float) -> np.float32:
    """Return the least float32 that is not below a decimal: the input `keep_ratio` of BlockSelect.

    The op multiplies by it and rounds down: 0.9 of 40 blocks are 36, but float32(0.9) is below 0.9,
    and 40 times it rounds down to 35.
    """
    rounded = np.float32(ratio)
    return rounded if float(rounded) >= ratio else np.nextafter(rounded, np.float32(np.inf))
