"""The two tiny bundles of the engine checks, made where torch exports and carried from there."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# No GPU kernel attends in float32, so only `half` becomes engines.
BUNDLES: dict[str, dict[str, Any]] = {"wide": {}, "half": {"precision": "fp16"}}


def export_tiny(folder: Path, name: str) -> Path:
    """Write one of `BUNDLES` to `folder`/`name`; takes a minute of CPU."""
    from tests.tiny_vggt import export_tiny_bundle

    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as work:
        return export_tiny_bundle(Path(work), **BUNDLES[name]).rename(folder / name)
