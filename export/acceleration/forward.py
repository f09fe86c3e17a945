"""The forward function that replaces that of a global attention module."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from covis.engines.errors import user_error

if TYPE_CHECKING:
    from covis.export.acceleration.handle import Accelerated

_POSITIONS = ("pos", "xpos")  # VGGT; Pi3 and MapAnything
_ROTATIONS = ("rope", "custom_positional_encoding")  # VGGT and Pi3; MapAnything


class GlobalAttention:
    """Replacement of `module.forward`; parameters and submodules stay those of the module.

    It is not a module itself: state dict, `.to()` and `copy.deepcopy` of the model work as before.

    Attributes:
        module: Attention module of the user's model.
        layer: Index of the module among the global layers.
        owner: State of the accelerated model.
        original: Forward function that is replaced.
    """

    def __init__(self, module: nn.Module, layer: int, owner: Accelerated) -> None:
        self.module: Any = module
        self.layer = layer
        self.owner = owner
        self.original = module.forward
        self._parameters = tuple(inspect.signature(module.forward).parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute attention: tokens (B, S, C) and positions, as for the original -> (B, S, C)."""
        arguments = dict(zip(self._parameters, args, strict=False)) | kwargs
        x: Tensor = arguments.pop(self._parameters[0])
        if not self.owner.is_sparse(self.layer, x.shape[0]):
            dense: Tensor = self.original(*args, **kwargs)
            return dense
        module = self.module
        positions = self._positions(arguments)
        qkv = torch.unflatten(module.qkv(x), -1, (3, module.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self._norm("q_norm", q), self._norm("k_norm", k)
        if self.owner.structure.cast_before_rotation:
            q, k = q.to(v.dtype), k.to(v.dtype)
        rotate = _first(getattr(module, name, None) for name in _ROTATIONS)
        if rotate is not None:
            q, k = rotate(q, positions), rotate(k, positions)
        # Under autocast, norms and rotations return float32, and attention runs in the type of the
        # values. Autocast is off here, because it would round the inputs of block selection again.
        with torch.autocast(x.device.type, enabled=False):
            scale = getattr(module, "scale", None)
            out = self.owner.attend(self.layer, q.to(v.dtype), k.to(v.dtype), v, scale)
        projected: Tensor = module.proj(out.transpose(1, 2).flatten(2))
        dropout = getattr(module, "proj_drop", None)
        return projected if dropout is None else dropout(projected)

    def _positions(self, arguments: dict[str, Any]) -> Tensor | None:
        """Return the positions among the arguments; reject arguments that are not supported."""
        positions: Tensor | None = _first(arguments.pop(name, None) for name in _POSITIONS)
        unknown = [name for name, value in arguments.items() if value is not None]
        if unknown:
            raise self._refusal(f"got {', '.join(unknown)}", "only tokens and positions are taken")
        dropout = getattr(getattr(self.module, "attn_drop", None), "p", 0.0)
        if self.module.training and dropout:
            raise self._refusal(
                f"has attention dropout {dropout} in training mode", "call model.eval() first"
            )
        return positions

    def _refusal(self, what: str, hint: str) -> Exception:
        where = f"{self.owner.structure.model} global attention {self.layer}"
        return user_error(what, where=where, hint=hint)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        norm = getattr(self.module, name, None)
        return x if norm is None else norm(x)


def _first(values: Iterable[Any]) -> Any:
    """Return the first value that is not None, or None; all values are evaluated."""
    return next((value for value in list(values) if value is not None), None)
