"""Makes the bundle of `make demo`: a tiny VGGT with random weights.

    python -m covis.export.demo_bundle covis/assets/demo

Random weights reconstruct nothing. The bundle shows that the whole line runs, and what it writes;
every screen that shows its results says so.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from covis.engines.options import Sparsity
from covis.export.exporter import export_bundle
from covis.export.models import build_model
from covis.export.options import ExportOptions

CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "depth": 6,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "img_size": 168,
    "dino_depth": 3,
    "dino_heads": 2,
    "dino_mlp_ratio": 2.0,
    "camera_trunk_depth": 1,
    "camera_heads": 4,
    "camera_mlp_ratio": 1.0,
    "dpt_features": 16,
    "dpt_out_channels": [8, 16, 24, 32],
    "dpt_layers": [1, 2, 4, 5],
    "num_register_tokens": 4,
}
HEIGHT, WIDTH = 126, 168


def random_weights(path: Path, seed: int = 0) -> None:
    """Torch's own initialisation, with an upright camera of ordinary field of view as the bias."""
    torch.manual_seed(seed)
    model = build_model("vggt", CONFIG)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    # The camera head adds its output four times: quaternion (0, 0, 0, 1), fields of view 1 radian.
    bias = state["camera_head.pose_branch.fc2.bias"]
    bias[6:9] = 0.25
    save_file(state, path)


def make(out: Path) -> None:
    """Export the bundle to `out`, replacing what is there."""
    with tempfile.TemporaryDirectory() as folder:
        weights, config = Path(folder) / "random.safetensors", Path(folder) / "config.json"
        random_weights(weights)
        config.write_text(json.dumps(CONFIG))
        options = ExportOptions(
            model="vggt",
            out=out,
            weights=str(weights),
            config=config,
            height=HEIGHT,
            width=WIDTH,
            dtype="float16",
            force=True,
            sparsity=Sparsity(tau=0.98, layers="0-2", min_neighbours=1),
        )
        export_bundle(options, tell=lambda text: print(text, file=sys.stderr))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
