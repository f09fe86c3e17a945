"""Constants that depend on sizes alone: computed in float64, kept out of any trace."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import ParamSpec

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

P = ParamSpec("P")


def table(make: Callable[P, tuple[Tensor, ...]]) -> Callable[P, tuple[Tensor, ...]]:
    """Caches a function that makes tensors from sizes, and runs it outside of any trace.

    While a model is exported, every torch call is recorded and yields tensors without data. A
    position table would so become dozens of float64 nodes; made outside, it is one constant.
    """
    cached = lru_cache(maxsize=128)(make)

    def outside(*args: P.args, **kwargs: P.kwargs) -> tuple[Tensor, ...]:
        # Whoever asks first must not decide for all: neither by a default device nor by an
        # inference mode, whose tensors no later training could use.
        with _disable_current_modes(), torch.device("cpu"), torch.inference_mode(False):
            return cached(*args, **kwargs)  # type: ignore[arg-type]

    return outside


def like(tables: tuple[Tensor, ...], x: Tensor) -> tuple[Tensor, ...]:
    """The float64 CPU tables in the element type and on the device of `x`, as constants still.

    A meta tensor has no data to be mixed with, so its constants stay on the CPU.
    """
    device = torch.device("cpu") if x.device.type == "meta" else x.device
    with _disable_current_modes():
        return tuple(t.to(device=device, dtype=x.dtype) for t in tables)
