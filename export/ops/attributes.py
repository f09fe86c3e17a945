"""Attributes of the ops that have any, validated once for checks, kernels and ONNX nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from covis.engines.errors import user_error
from covis.engines.op import LAYOUT_ATTRIBUTES
from covis.export.ops.layout import PLAIN, TokenLayout, region_count

POOLS: Final = ("mean", "max")

_TORCH_TYPES: Final = {int: "SymInt", float: "float", str: "str"}


@dataclass(frozen=True)
class RegionAttributes:
    """Attributes that BlockSparseAttention and BlockSelect share.

    Attributes:
        layout: Which of the S tokens are special, patch and trailing tokens.
        q_block: Patch tokens of one query region, at least 1.
        k_block: Patch tokens of one key region, at least 1.

    Raises:
        CovisError: a value that the contract of the op forbids.
    """

    layout: TokenLayout = PLAIN
    q_block: int = 1
    k_block: int = 1

    def __post_init__(self) -> None:
        for name in ("q_block", "k_block"):
            if getattr(self, name) < 1:
                raise user_error(f"is {getattr(self, name)}", where=name, hint="give 1 or more")

    def regions(self, tokens: int) -> tuple[int, int]:
        """Return the number of query and key regions of that many tokens; works on symbols."""
        patches = self.layout.patches(tokens)
        return region_count(patches, self.q_block), region_count(patches, self.k_block)

    def flat(self) -> dict[str, Any]:
        """Return the attributes as an ONNX node names them, in the order of the contract."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        layout = own.pop("layout")
        return {**vars(layout), **own}

    @classmethod
    def from_flat(cls, *values: Any) -> Self:
        """Build the attributes from values in the order of `flat`; missing ones take defaults.

        PyTorch does not pass trailing arguments of an op that are equal to their defaults.
        """
        count = len(LAYOUT_ATTRIBUTES)
        return cls(TokenLayout(*values[:count]), *values[count:])


@dataclass(frozen=True)
class AttentionAttributes(RegionAttributes):
    """Attributes of one BlockSparseAttention.

    Attributes:
        scale: Factor of the scores; 0 means 1 / sqrt(D).
    """

    scale: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise user_error(f"is {self.scale}", where="scale", hint="give a finite number above 0")

    @property
    def factor(self) -> float | None:
        """Factor of the scores as torch expects it: None means 1 / sqrt(D)."""
        return self.scale or None


@dataclass(frozen=True)
class SelectAttributes(RegionAttributes):
    """Attributes of one BlockSelect.

    Attributes:
        pool: "mean" or "max" over the tokens of a region.
    """

    q_block: int = 128
    k_block: int = 64
    pool: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool not in POOLS:
            raise user_error(f"is {self.pool!r}", where="pool", hint="give 'mean' or 'max'")


def torch_schema(inputs: tuple[str, ...], attributes: Mapping[str, int | float | str]) -> str:
    """Return the schema of a torch op: these tensors, then the attributes with their defaults."""
    arguments = [f"Tensor {name}" for name in inputs]
    for name, default in attributes.items():
        value = f'"{default}"' if isinstance(default, str) else default
        arguments.append(f"{_TORCH_TYPES[type(default)]} {name}={value}")
    return f"({', '.join(arguments)}) -> Tensor"
