"""The two tiny bundles of the engine checks, made where torch exports and carried from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# No GPU kernel attends in float32, so only `half` becomes engines.
BUNDLES: dict[str, dict[str, Any]] = {"wide": {}, "half": {"precision": "fp16"}}


def export_tiny(folder: Path, name: str) -> Path:
    """Write one of `BUNDLES` to `folder`/`name`; takes a minute of CPU."""
    from covis.export.exporter import export_bundle
    from covis.export.options import ExportOptions
    from tests.tiny_vggt import HEIGHT, WIDTH, weights_and_config

    folder.mkdir(parents=True, exist_ok=True)
    weights, config = weights_and_config(folder)
    given = (str(weights), config, HEIGHT, WIDTH)
    export_bundle(ExportOptions("vggt", folder / name, *given, verify=False, **BUNDLES[name]))
    weights.unlink()
    config.unlink()
    return folder / name
