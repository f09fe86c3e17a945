"""`covis export`: convert a checkpoint to a bundle."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from covis.engines.bundle.manifest import Drift, Precision
from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import environment_error, printable
from covis.export.options import ExportOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def export(options: ExportOptions) -> None:
    """Export a model and print a summary of the bundle."""
    from rich.console import Console
    from rich.markup import escape

    from covis.engines.system.atomic import check_folder_target

    check_folder_target(options.out, force=options.force)  # before PyTorch is imported
    console = Console(stderr=True)
    # Names of files may contain what rich would read as markup.
    show = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise environment_error(
            f"exporting needs PyTorch ({error})", hint="pip install 'covis[cpu,export]'"
        ) from error
    from covis.export.exporter import export_bundle

    with console.status("exporting") as status:

        def on_progress(text: str) -> None:
            status.update(escape(printable(text)))
            show(f"  {printable(text)}", style="dim")

        manifest = export_bundle(options, on_progress, _load_photos)
    graphs = sum(f.size for f in manifest.files if f.path.endswith(".onnx"))
    weights = sum(f.size for f in manifest.files) - graphs
    show(
        f"{printable(options.out)}: {len(manifest.stages)} graphs ({graphs / 1e6:.1f} MB), "
        f"weights {weights / 1e6:,.1f} MB, {len(manifest.checks)} outputs checked against torch"
    )
    for line in drift_lines(manifest.precision):
        show(f"  {line}")
    show(f"licence of the weights: {manifest.weights.licence}")


def _load_photos(folder: Path, rule: PixelRule) -> NDArray[np.float32]:
    """Load the photos of a folder in the form that the model reads: (M, 3, H, W) in [0, 1]."""
    from rich.console import Console

    from covis.commands.run import warn
    from covis.runtime.photos.selection import load_photos

    images = load_photos(folder, rule)
    warn(Console(stderr=True), images.notes)
    return images.pixels


def drift_lines(precision: Precision) -> list[str]:
    """Return lines on the drift of a narrow bundle from float32, by output and for the scene."""
    if not precision.drift:
        return []
    lines = [
        f"{precision.name} against float32 on {precision.drift[0].views} and "
        f"{precision.drift[-1].views} views (ONNX Runtime on the CPU, {precision.ran_as}):"
    ]
    worst: dict[tuple[str, str], Drift] = {}
    for drift in precision.drift:
        key = drift.stage, drift.output
        if key not in worst or drift.rms_rel > worst[key].rms_rel:
            worst[key] = drift
    lines += [
        f"{d.stage}.{d.output}: {d.rms_rel:.2g} of its size (rms); at most {d.max_abs:.2g}, "
        f"{d.max_rel:.2g} of the largest value"
        for d in worst.values()
    ]
    for scene in precision.scene:
        pose = "-" if scene.pose_degrees is None else f"{scene.pose_degrees:.2g} degrees"
        depth = "-" if scene.depth_relative is None else f"{scene.depth_relative:.2g} of itself"
        lines.append(f"{scene.views} views: cameras move by {pose}, depth changes by {depth}")
    return lines
