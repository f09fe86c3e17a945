"""`scene.json`: names, sizes, notes, provenance and the list of files of a scene folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from covis.runtime.scene.writers import SUMMARY
from covis.runtime.scene.writers.finite import LeftOut
from covis.runtime.scene.writers.folder import SceneFolder


def write_summary(folder: SceneFolder, left_out: LeftOut, files: list[str]) -> None:
    """Write `scene.json`; `files` are the other files of the folder, relative to it."""
    text = json.dumps(_content(folder, left_out, files), indent=1, default=_as_json)
    (folder.place / SUMMARY).write_text(text + "\n", encoding="utf-8")


def _content(folder: SceneFolder, left_out: LeftOut, files: list[str]) -> dict[str, Any]:
    scene = folder.scene
    return {
        "views": list(scene.names),
        "images": dict(zip(scene.names, folder.frames.names, strict=True)),
        "images_from": folder.frames.origin,
        "image_size": list(scene.image_size),
        "metric": scene.metric,
        "conf_percentile": folder.options.conf_percentile,
        **folder.facts,
        "left_out": asdict(left_out),
        "notes": [*scene.notes, *folder.notes],
        "anchors": None if scene.anchors is None else [scene.names[view] for view in scene.anchors],
        "sparsity": asdict(scene.sparsity) if scene.sparsity else None,
        "provenance": dict(scene.provenance),
        "covis_files": files,
    }


def _as_json(value: Any) -> Any:
    """Convert arrays to nested lists, and paths and the like to text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
