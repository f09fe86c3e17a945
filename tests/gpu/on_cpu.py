"""Torch code written for a GPU, run on the CPU: for rehearsals."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class OnCpu(TorchFunctionMode):
    """What torch would put on a GPU stays on the CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        given = {name: _cpu(value) for name, value in (kwargs or {}).items()}
        return func(*map(_cpu, args), **given)


def _cpu(value: Any) -> Any:
    return "cpu" if isinstance(value, str) and value == "cuda" else value
