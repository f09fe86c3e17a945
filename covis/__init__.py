"""covis: multi-view transformers with global attention made block-sparse by co-visibility.

The public face. Everything is imported when first asked for, so `import covis` is quick and
needs neither torch nor ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covis.engines.errors import CovisError
    from covis.runtime.pipeline import Pipeline, load, reconstruct
    from covis.runtime.scene import Scene

__version__ = "0.1.0"
__all__ = ["CovisError", "Pipeline", "Scene", "__version__", "load", "reconstruct"]

_HOME = {
    "CovisError": "covis.engines.errors",
    "Pipeline": "covis.runtime.pipeline",
    "Scene": "covis.runtime.scene",
    "load": "covis.runtime.pipeline",
    "reconstruct": "covis.runtime.pipeline",
}

# In a checkout the folders `export`, `engines` and `runtime` lie beside this one, and with the
# checkout as working directory `./covis` is found before any installed package: without this
# line its other three quarters would be missing.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "engines").is_dir():
    __path__.append(str(_checkout))


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'covis' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
