"""The tiny VGGT of the recorded cases: its weights where they are at hand, else random ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.golden_data import ROOT

# The configuration of golden/vggt_a1.json: every part of the model, as narrow as it goes.
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
    """A safetensors file and a JSON file for `covis export`; made in `folder` where need be."""
    config = folder / "config.json"
    config.write_text(json.dumps(CONFIG))
    recorded = ROOT.parent / "shared" / "golden" / "vggt_a1.weights.safetensors"
    return (recorded if recorded.is_file() else random_weights(folder)), config


def random_weights(folder: Path) -> Path:
    """Seeded weights of the tiny VGGT: those of its initialisation, noise on what begins at 0."""
    import torch
    from safetensors.torch import save_file

    from covis.export.models import build_model

    torch.manual_seed(0)
    model = build_model("vggt", CONFIG)
    state = {}
    for name, value in model.state_dict().items():
        noise = 0.02 * torch.randn_like(value)
        state[name] = (value + noise if value.count_nonzero() == 0 else value).contiguous()
    path = folder / "random.safetensors"
    save_file(state, path)
    return path


def export_tiny_bundle(folder: Path) -> Path:
    """Export to `folder`/bundle. Its graphs are not verified here: other tests do that."""
    from covis.export.exporter import export_bundle
    from covis.export.options import ExportOptions

    weights, config = weights_and_config(folder)
    out = folder / "bundle"
    export_bundle(
        ExportOptions("vggt", out, str(weights), config, HEIGHT, WIDTH, verify=False),
    )
    return out
