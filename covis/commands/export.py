"""`covis export`: a checkpoint becomes a bundle."""

from __future__ import annotations

from covis.engines.errors import environment_error
from covis.export.options import ExportOptions


def export(options: ExportOptions) -> None:
    """Export a model and say what was made."""
    from rich.console import Console

    console = Console(stderr=True)
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise environment_error(
            f"exporting needs PyTorch ({error})", hint="pip install 'covis[export]'"
        ) from error
    from covis.export.exporter import export_bundle

    with console.status("exporting") as status:

        def tell(text: str) -> None:
            status.update(text)
            console.print(f"  {text}", style="dim", highlight=False)

        manifest = export_bundle(options, tell)
    graphs = sum(f.size for f in manifest.files if f.path.endswith(".onnx"))
    weights = sum(f.size for f in manifest.files) - graphs
    console.print(
        f"{options.out}: {len(manifest.stages)} graphs ({graphs / 1e6:.1f} MB), "
        f"weights {weights / 1e6:,.1f} MB, {len(manifest.checks)} outputs checked against torch",
        highlight=False,
    )
    console.print(f"licence of the weights: {manifest.weights.licence}", highlight=False)
