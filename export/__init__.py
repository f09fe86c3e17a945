"""From torch checkpoints to bundles of ONNX graphs; the only part of covis that needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covis.export.retrofit import Accelerated, accelerate, restore

__all__ = ["Accelerated", "accelerate", "restore"]


def __getattr__(name: str) -> Any:
    """Torch is imported when one of these is first asked for: `import covis` does without it."""
    if name in __all__:
        from covis.export import retrofit

        return getattr(retrofit, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
