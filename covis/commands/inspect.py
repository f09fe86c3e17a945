"""`covis inspect`: what a bundle is, and whether it is whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class InspectCommand:
    """Check a bundle and show what it holds.

    Attributes:
        bundle: a folder made by `covis export`.
        json: print the manifest as it is.
    """

    bundle: tyro.conf.Positional[Path]
    json: bool = False


def inspect(command: InspectCommand) -> None:
    """Open the bundle (every digest is checked) and print its contents."""
    from rich.console import Console
    from rich.table import Table

    from covis.engines.bundle import open_bundle
    from covis.engines.errors import printable
    from covis.engines.manifest import Tensor

    bundle = open_bundle(command.bundle)
    manifest = bundle.manifest
    if command.json:
        print(manifest.model_dump_json(indent=1))
        return
    console = Console(highlight=False)
    rule, model = manifest.pixel_rule, manifest.model
    special = model.special_first + model.special_last
    facts = {
        "model": f"{model.name}, {model.global_layers} global layers, "
        f"{special} special tokens a frame, "
        f"{'view 0 is the reference' if model.reference_view else 'no reference view'}",
        "images": f"{rule.width} x {rule.height} pixels (W x H), {manifest.patches} patches, "
        f"{rule.kind}",
        "weights": f"{manifest.weights.source} ({manifest.weights.dtype})",
        "licence": manifest.weights.licence,
        "saliency": manifest.pooling,
        "sparsity": ", ".join(f"{k}={v}" for k, v in asdict(manifest.sparsity).items()),
        "made by": f"covis {manifest.covis_version}, opset {manifest.opset}",
    }
    for name, value in facts.items():
        # A bundle is anybody's: its words must not colour, clear or steer the terminal.
        console.print(f"{name:>9}  {printable(value)}", markup=False)

    def words(tensors: tuple[Tensor, ...]) -> str:
        return ", ".join(f"{t.name} {list(t.shape)}".replace("'", "") for t in tensors)

    table = Table("stage", "runs over", "MB", "reads", "writes", "worst check", box=None)
    sizes = {file.path: file.size for file in manifest.files}
    for stage in manifest.stages:
        checks = [c for c in manifest.checks if c.stage == stage.name]
        worst = max((c.max_abs_diff / max(c.tolerance, 1e-30) for c in checks), default=None)
        verdict = "not verified" if worst is None else f"{worst:.2f} of the tolerance"
        table.add_row(
            stage.name,
            "chunks" if stage.scope == "frames" else "all views",
            f"{sizes[stage.graph] / 1e6:.2f}",
            words(stage.inputs),
            words(stage.outputs),
            verdict,
        )
    console.print(table)
    console.print(f"all {len(manifest.files)} files have their listed size and sha256")
