"""`covis export`: a checkpoint becomes a bundle."""

from __future__ import annotations

from functools import partial

from covis.engines.errors import environment_error, printable
from covis.export.options import ExportOptions


def export(options: ExportOptions) -> None:
    """Export a model and say what was made."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    # Names of files may hold what rich would read as markup.
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise environment_error(
            f"exporting needs PyTorch ({error})", hint="pip install 'covis[export]'"
        ) from error
    from covis.export.exporter import export_bundle

    with console.status("exporting") as status:

        def tell(text: str) -> None:
            status.update(escape(printable(text)))
            say(f"  {printable(text)}", style="dim")

        manifest = export_bundle(options, tell)
    graphs = sum(f.size for f in manifest.files if f.path.endswith(".onnx"))
    weights = sum(f.size for f in manifest.files) - graphs
    say(
        f"{printable(options.out)}: {len(manifest.stages)} graphs ({graphs / 1e6:.1f} MB), "
        f"weights {weights / 1e6:,.1f} MB, {len(manifest.checks)} outputs checked against torch"
    )
    say(f"licence of the weights: {manifest.weights.licence}")
