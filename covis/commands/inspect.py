"""`covis inspect`: a check of a bundle, and the contents of its manifest and its engines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from covis.commands.arguments import BundlePath, default

if TYPE_CHECKING:
    from rich.console import Console

    from covis.engines.bundle.bundle import Bundle
    from covis.engines.options import Sparsity
    from covis.engines.tensorrt.proof.report import EngineReport


@dataclass(frozen=True)
class InspectCommand:
    """Check a bundle and show its contents.

    Attributes:
        bundle: Bundle to check: a folder that `covis export` wrote.
        json: Print the manifest as JSON instead of tables.
        plans: Folder of the plans to show.
        layers: Show every attention node of the engines, not only their number.
    """

    bundle: BundlePath
    json: bool = False
    plans: Annotated[Path | None, default("the bundle's own folder `plans`")] = None
    layers: bool = False


def _plans(sparsity: Sparsity, depth: int) -> list[str]:
    """Return what a run computes, for each range of numbers of views."""
    from covis.commands.run import plan

    views = (max(sparsity.dense_up_to, 1), max(sparsity.light_up_to, 1), sparsity.light_up_to + 1)
    return list(dict.fromkeys(plan(sparsity, number, depth) for number in views))


def inspect(command: InspectCommand) -> None:
    """Open the bundle (every digest is checked) and print its contents."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from covis.engines.bundle.bundle import open_bundle
    from covis.engines.bundle.manifest import Tensor
    from covis.engines.errors import printable

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
        "sparsity": ", ".join(
            f"{k}={v}" for k, v in asdict(manifest.sparsity).items() if v not in (None, "")
        ),
        "computes": "; ".join(_plans(manifest.sparsity, model.global_layers)),
        "written by": f"covis {manifest.covis_version}, opset {manifest.opset}",
    }
    for name, value in facts.items():
        # A bundle may come from anybody: its text must not colour, clear or control the terminal.
        console.print(f"{name:>10}  {printable(value)}", markup=False)

    def listed(tensors: tuple[Tensor, ...]) -> str:
        return ", ".join(f"{t.name} {list(t.shape)}".replace("'", "") for t in tensors)

    table = Table("stage", "runs over", "MB", "reads", "writes", "worst check", box=None)
    sizes = {file.path: file.size for file in manifest.files}
    for stage in manifest.stages:
        checks = [c for c in manifest.checks if c.stage == stage.name]
        worst = max((c.max_abs_diff / max(c.tolerance, 1e-30) for c in checks), default=None)
        verdict = "not verified" if worst is None else f"{worst:.2f} of the tolerance"
        words = (
            stage.name,
            "chunks" if stage.scope == "frames" else "all views",
            f"{sizes[stage.graph] / 1e6:.2f}",
            listed(stage.inputs),
            listed(stage.outputs),
            verdict,
        )
        table.add_row(*map(Text, words))  # as text, not as markup
    console.print(table)
    console.print(f"all {len(manifest.files)} files have their listed size and sha256")
    _show_plans(console, bundle, command)


def _show_plans(console: Console, bundle: Bundle, command: InspectCommand) -> None:
    """Print every plan of the bundle, with the engine inspector's report from its build."""
    from covis.engines.bundle.folder import PLANS
    from covis.engines.errors import CovisError, printable
    from covis.engines.tensorrt.plans.record import records
    from covis.engines.tensorrt.proof.recorded import plan_report

    folder = command.plans or bundle.path / PLANS
    for record in records(folder):
        ranges = ", ".join(f"{name} {sizes}" for name, sizes in record.profile.items())
        console.print()
        console.print(
            printable(
                f"plan of {record.stage}: {record.file}, {record.precision}, "
                f"{ranges or 'fixed shapes'}, TensorRT {record.tensorrt}, CUDA {record.cuda}, "
                f"driver {record.driver_branch}, {record.gpu}, {record.size / 1e6:,.1f} MB"
            ),
            markup=False,
        )
        try:
            found = plan_report(bundle, record, folder)
        except CovisError as error:
            console.print(f"not proven: {printable(str(error))}", markup=False, soft_wrap=True)
            continue
        _show_engine(console, bundle, found, command.layers)


def _show_engine(console: Console, bundle: Bundle, found: EngineReport, every: bool) -> None:
    from collections import Counter

    from rich.table import Table
    from rich.text import Text

    from covis.engines.errors import printable

    table = Table("layers", "class", "reads", "kernel most of them run", box=None)
    for row in found.classes:
        words = (str(row.count), row.kind, row.precision, row.kernel)
        table.add_row(*(Text(printable(word)) for word in words))  # as text, not as markup
    console.print(table)
    sparsity = bundle.manifest.sparsity
    groups = Counter((row.op, row.level, row.plugin, row.precision) for row in found.attention)
    for (op, level, plugin, precision), count in groups.items():
        maps = f", map: {level}" if level else ""
        able = f" (layers {sparsity.layers} by default)" if level not in ("", "dense") else ""
        runs = f"the plugin, {precision}" if plugin else "NOT the plugin"
        console.print(f"{count} {op}{maps}{able}: {runs}", markup=False)
    if every:
        for attention in found.attention:
            console.print(
                printable(
                    f"  {attention.node}: {attention.op}, {attention.level or 'chooses'}, "
                    f"{'plugin' if attention.plugin else 'NOT the plugin'}, {attention.precision}"
                ),
                markup=False,
            )
    console.print(
        f"selector {sparsity.selector} by default; {found.proven} of {found.products} products "
        "shown in the graph's type",
        markup=False,
    )
    for fault in found.faults:
        console.print(f"NOT as asked for: {printable(fault)}", markup=False)
