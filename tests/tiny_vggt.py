"""A tiny VGGT with random weights: for everything but the numbers it computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

# That of golden/vggt_a1.json: every part of the model, as narrow as it goes.
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "depth": 4,
    "num_heads": 2,
    "mlp_ratio": 1.5,
    "img_size": 70,
    "dino_depth": 2,
    "dino_heads": 2,
    "dino_mlp_ratio": 2,
    "camera_trunk_depth": 1,
    "camera_heads": 2,
    "camera_mlp_ratio": 1,
    "dpt_features": 16,
    "dpt_out_channels": [8, 16, 24, 32],
    "dpt_layers": [0, 1, 2, 3],
    "num_register_tokens": 4,
}
HEIGHT, WIDTH = 56, 84


def weights_and_config(folder: Path) -> tuple[Path, Path]:
    """A safetensors file and a JSON file for `covis export`, made in `folder`."""
    config = folder / "config.json"
    config.write_text(json.dumps(CONFIG))
    return random_weights(folder), config


def random_weights(folder: Path) -> Path:
    """Seeded weights of the tiny VGGT, the same on every machine.

    Its own initialisation, noise on what begins at 0, and a camera head that answers with upright
    cameras of about 57 degrees: those of random weights have no positive focal length.
    """
    import torch
    from safetensors.torch import save_file

    from covis.export.models import build_model

    torch.manual_seed(0)
    model = build_model("vggt", CONFIG)
    state = {}
    for name, value in model.state_dict().items():
        noise = 0.02 * torch.randn_like(value)
        state[name] = (value + noise if value.count_nonzero() == 0 else value).contiguous()
    state["camera_head.pose_branch.fc2.weight"] *= 0.01
    # Translation, quaternion (x, y, z, w), fields of view; the head adds up four of these.
    state["camera_head.pose_branch.fc2.bias"] = torch.tensor([0.0] * 6 + [0.25] * 3)
    path = folder / "random.safetensors"
    save_file(state, path)
    return path


def export_tiny_bundle(
    folder: Path,
    *,
    anew: bool = False,
    weights: Path | None = None,
    on_progress: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Path:
    """Export to `folder`/bundle.

    Args:
        folder: exists; receives weights and configuration too.
        anew: trace the stages in place of taking the run's traces.
        weights: weights of the same sizes, in place of the random ones.
        on_progress: receives the exporter's lines.
        options: further `ExportOptions`. Graphs are not verified unless these say so.
    """
    from covis.export.exporter import export_bundle
    from covis.export.options import ExportOptions
    from tests.traces import shared_traces

    own, config = weights_and_config(folder)
    out = folder / "bundle"
    given = {"verify": False, **options}
    with shared_traces(anew=anew):
        source = str(weights or own)
        chosen = ExportOptions("vggt", out, source, config, HEIGHT, WIDTH, **given)
        export_bundle(chosen, on_progress)
    return out
