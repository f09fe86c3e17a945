"""Multi-view transformers with global attention made block-sparse by co-visibility.

Everything here is public and imported when it is first used, so that `import covis` is quick and
needs neither torch nor ONNX Runtime. Other modules of the package are private, except those that
the reference documents.

`export`, `engines`, `runtime`, `evaluation` and `synthetic` are folders beside this one in a
checkout; links in this folder make them one package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from covis.engines.version import __version__

if TYPE_CHECKING:
    from covis import export
    from covis.engines.errors import CovisError
    from covis.engines.options import BackendOptions, RunOptions, Sparsity
    from covis.engines.tensorrt.build.options import BuildOptions
    from covis.engines.tensorrt.build.stages import build
    from covis.runtime.photos.images import Images
    from covis.runtime.photos.options import PhotoOptions
    from covis.runtime.pipeline import Pipeline, load, reconstruct
    from covis.runtime.scene.options import SceneOptions
    from covis.runtime.scene.scene import Scene
    from covis.runtime.scene.writers import Written, write
    from covis.runtime.scene.writers.options import OutputOptions

__all__ = [
    "BackendOptions",
    "BuildOptions",
    "CovisError",
    "Images",
    "OutputOptions",
    "PhotoOptions",
    "Pipeline",
    "RunOptions",
    "Scene",
    "SceneOptions",
    "Sparsity",
    "Written",
    "__version__",
    "build",
    "export",
    "load",
    "reconstruct",
    "write",
]

_HOME = {
    "BackendOptions": "covis.engines.options",
    "BuildOptions": "covis.engines.tensorrt.build.options",
    "CovisError": "covis.engines.errors",
    "Images": "covis.runtime.photos.images",
    "OutputOptions": "covis.runtime.scene.writers.options",
    "PhotoOptions": "covis.runtime.photos.options",
    "Pipeline": "covis.runtime.pipeline",
    "RunOptions": "covis.engines.options",
    "Scene": "covis.runtime.scene.scene",
    "SceneOptions": "covis.runtime.scene.options",
    "Sparsity": "covis.engines.options",
    "Written": "covis.runtime.scene.writers",
    "build": "covis.engines.tensorrt.build.stages",
    "load": "covis.runtime.pipeline",
    "reconstruct": "covis.runtime.pipeline",
    "write": "covis.runtime.scene.writers",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    import importlib

    if name == "export":  # a package: `covis.export.export_bundle`, `covis.export.accelerate`
        return importlib.import_module("covis.export")
    if name not in _HOME:
        raise AttributeError(f"module 'covis' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
