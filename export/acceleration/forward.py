"""The forward that stands in for a global attention module's own."""

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
    """Called in place of `module.forward`; parameters and submodules stay the module's own.

    Not a module itself: the state dict, `.to()` and `copy.deepcopy` of the model are as before.

    Attributes:
        module: the attention module.
        layer: its index among the global layers.
        owner: the model's state.
        original: the forward that was there before.
    """

    def __init__(self, module: nn.Module, layer: int, owner: Accelerated) -> None:
        self.module: Any = module
        self.layer = layer
        self.owner = owner
        self.original = module.forward
        self._parameters = tuple(inspect.signature(module.forward).parameters)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Tokens (B, S, C) and their positions, as the original takes them -> (B, S, C)."""
        given = dict(zip(self._parameters, args, strict=False)) | kwargs
        x: Tensor = given.pop(self._parameters[0])
        if not self.owner.is_sparse(self.layer, x.shape[0]):
            dense: Tensor = self.original(*args, **kwargs)
            return dense
        module = self.module
        positions = self._positions(given)
        qkv = torch.unflatten(module.qkv(x), -1, (3, module.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self._norm("q_norm", q), self._norm("k_norm", k)
        if self.owner.structure.cast_before_rotation:
            q, k = q.to(v.dtype), k.to(v.dtype)
        rotate = _first(getattr(module, name, None) for name in _ROTATIONS)
        if rotate is not None:
            q, k = rotate(q, positions), rotate(k, positions)
        # Under autocast norms and rotations give float32, and attention runs in the type of the
        # values; what chooses the blocks must not be rounded by it again.
        with torch.autocast(x.device.type, enabled=False):
            scale = getattr(module, "scale", None)
            out = self.owner.attend(self.layer, q.to(v.dtype), k.to(v.dtype), v, scale)
        projected: Tensor = module.proj(out.transpose(1, 2).flatten(2))
        dropout = getattr(module, "proj_drop", None)
        return projected if dropout is None else dropout(projected)

    def _positions(self, given: dict[str, Any]) -> Tensor | None:
        """The positions among the arguments; refuses what the sparse attention does not do."""
        positions: Tensor | None = _first(given.pop(name, None) for name in _POSITIONS)
        unknown = [name for name, value in given.items() if value is not None]
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
    """The first that is not None, or None; consumes all."""
    return next((value for value in list(values) if value is not None), None)
