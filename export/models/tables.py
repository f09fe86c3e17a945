"""Constants that depend on sizes alone: computed in float64, outside of any trace."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

P = ParamSpec("P")


def table(make: Callable[P, tuple[Tensor, ...]]) -> Callable[P, tuple[Tensor, ...]]:
    """Cache a function that computes tensors from sizes, and run it outside of any trace.

    During an export, every torch call is recorded and returns tensors without data. A position
    table would become dozens of float64 nodes; computed outside, it is one constant.
    """
    cached = lru_cache(maxsize=128)(make)

    def outside(*args: P.args, **kwargs: P.kwargs) -> tuple[Tensor, ...]:
        # The first caller must not determine the result for all: neither by a default device nor
        # by an inference mode, whose tensors a later training could not use.
        with _disable_current_modes(), torch.device("cpu"), torch.inference_mode(False):
            return cached(*args, **kwargs)  # type: ignore[arg-type]

    return outside


def like(tables: tuple[Tensor, ...], x: Tensor) -> tuple[Tensor, ...]:
    """Convert the float64 CPU tables to the element type and device of `x`; they stay constants.

    A meta tensor has no data to compute with, so its constants stay on the CPU.
    """
    device = torch.device("cpu") if x.device.type == "meta" else x.device
    with _disable_current_modes():
        return tuple(t.to(device=device, dtype=x.dtype) for t in tables)
