"""Pictures of a sweep; they require matplotlib (`covis[view]`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from covis.engines.errors import environment_error
from covis.engines.system.atomic import atomic_file
from covis.evaluation.sweep.report import STRICT, Row, pareto, without_controls

_COLOURS = {
    "tau": "#0c447c",
    "pooled": "#2a9d6f",
    "dense": "#222222",
    "pairs": "#c27c0e",
    "anchors": "#b3332b",
    "schedule": "#2f8fb0",
}
_CHOICES = {
    "kcenter": "#0c447c",
    "uniform": "#2a9d6f",
    "random": "#999999",
    "similar": "#b3332b",
    "oracle": "#c27c0e",
}
_SOURCES = {"saliency": "#0c447c", "random": "#999999", "oracle": "#c27c0e"}
_DROPS = {"front": "#0c447c", "back": "#b3332b", "middle": "#2a9d6f", "alternating": "#c27c0e"}
_REGIMES = ("#0c447c", "#2a9d6f", "#c27c0e", "#b3332b", "#7a4fb5", "#2f8fb0", "#8a8a3a")


def pyplot() -> Any:
    """Import matplotlib for use without a window.

    Raises:
        CovisError: It is not installed.
    """
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        raise environment_error(
            "matplotlib is not installed", where="pictures", hint="pip install 'covis[view]'"
        ) from error
    return plt


def draw_pareto(rows: Sequence[Row], path: Path) -> Path:
    """Draw AUC@30 against attention computed and against time, with the frontier as a line."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    own = [r for r in without_controls(rows) if r.get("auc30") is not None]
    for axis, cost, label in (
        (axes[0], "attention_work", "blocks of global attention computed, of all layers"),
        (axes[1], "seconds", "seconds a scene, whole pipeline"),
    ):
        for kind in dict.fromkeys(r["kind"] for r in own):
            points = [r for r in own if r["kind"] == kind]
            x, y = [r[cost] for r in points], [100 * r["auc30"] for r in points]
            axis.scatter(x, y, s=26, color=_COLOURS.get(kind, "#7a4fb5"), label=kind, alpha=0.8)
        front = pareto(own, cost)
        axis.plot(
            [r[cost] for r in front], [100 * r["auc30"] for r in front], lw=1.2, color="#b3332b"
        )
        axis.set_xlabel(label)
        axis.grid(alpha=0.25)
    _from_zero(axes[0])
    axes[0].set_ylabel("AUC@30")
    axes[0].legend(frameon=False)
    return _save(plt, figure, path)


def draw_pairs(rows: Sequence[Row], path: Path) -> Path | None:
    """Draw AUC@30 by share of the pairs: saliency, random and true pairs, all layers sparse."""
    found = [r for r in rows if r["kind"] == "pairs" and r.get("auc30") is not None]
    if not found:
        return None
    most = max(r["sparse_layers"] for r in found)
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    for source, colour in _SOURCES.items():
        line = sorted(
            (r["relative_blocks"], 100 * r["auc30"])
            for r in found
            if r["pairs_source"] == source and r["sparse_layers"] == most
        )
        if line:
            axis.plot(*zip(*line, strict=True), "o-", color=colour, label=source)
    _dense_line(axis, rows)
    axis.set_xlabel(f"pairs computed, in {most} sparse layers")
    _from_zero(axis)
    axis.set_ylabel("AUC@30")
    axis.xaxis.set_major_formatter(lambda x, _: f"{100 * x:.0f} %")
    axis.legend(frameon=False)
    axis.grid(alpha=0.25)
    return _save(plt, figure, path)


def draw_anchors(rows: Sequence[Row], path: Path) -> Path | None:
    """Draw AUC at a strict threshold and at 30 by the number of anchors, a line for each choice.

    The first rule beside the anchors alone is drawn, and the mean of the random choices.
    """
    found = [r for r in rows if r["kind"] == "anchors" and r.get("auc30") is not None]
    rules = [(r["sparsity"]["own_frame"], r["sparsity"]["min_neighbours"]) for r in found]
    found = [r for r, rule in zip(found, rules, strict=True) if rule == rules[0]]
    if not found:
        return None
    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    numbers = sorted(set(map(_anchors, found)))
    for axis, name in zip(axes, (f"auc{STRICT}", "auc30"), strict=True):
        for choice, colour in _CHOICES.items():
            values = [
                [100 * r[name] for r in found if (r["choice"], _anchors(r)) == (choice, number)]
                for number in numbers
            ]
            line = [(n, sum(v) / len(v)) for n, v in zip(numbers, values, strict=True) if v]
            if line:
                axis.plot(*zip(*line, strict=True), "o-", color=colour, label=choice)
        _dense_line(axis, rows, name)
        axis.set_xticks(numbers)
        axis.set_xlabel("anchors")
        axis.set_ylabel(name.replace("auc", "AUC@"))
        _from_zero(axis)
        axis.grid(alpha=0.25)
    axes[0].legend(frameon=False)
    return _save(plt, figure, path)


def _anchors(r: Row) -> int:
    return int(r["sparsity"]["anchors"])


def draw_drops(rows: Sequence[Row], path: Path) -> Path | None:
    """Draw AUC@30 by the number and the position of the sparse layers."""
    found = [r for r in rows if r["kind"] == "drop" and r.get("auc30") is not None]
    if not found:
        return None
    dense = [r for r in rows if r["kind"] == "dense"]
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(5.6, 4.2), layout="constrained")
    for drop, colour in _DROPS.items():
        line = [(r["sparse_layers"], 100 * r["auc30"]) for r in found if r["drop"] == drop]
        line += [(0, 100 * r["auc30"]) for r in dense]
        axis.plot(*zip(*sorted(line), strict=True), "o-", color=colour, label=drop)
    axis.set_xlabel("global layers that are sparse")
    _from_zero(axis)
    axis.set_ylabel("AUC@30")
    axis.legend(frameon=False, title="taken from")
    axis.grid(alpha=0.25)
    return _save(plt, figure, path)


def draw_attention(layers: Sequence[dict[str, Any]], path: Path) -> Path:
    """Draw attention by layer: between kinds of tokens, and its concentration."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    index = [layer["layer"] for layer in layers]
    for axis, statistic in ((axes[0], "mean"), (axes[1], "max")):
        for pair, colour in zip(
            ("special_special", "special_patch", "patch_special", "patch_patch"),
            ("#b3332b", "#c27c0e", "#2a9d6f", "#0c447c"),
            strict=True,
        ):
            values = [layer["attention"][pair][statistic] for layer in layers]
            axis.plot(index, values, "o-", ms=3, color=colour, label=pair.replace("_", " to "))
        axis.set_yscale("log")
        axis.set_ylabel(f"{statistic} attention weight")
    axes[0].legend(frameon=False)
    for share, colour in (("1", "#0c447c"), ("5", "#2a9d6f"), ("10", "#c27c0e")):
        values = [100 * layer["top_blocks"][share] for layer in layers]
        axes[2].plot(index, values, "o-", ms=3, color=colour, label=f"top {share} % of blocks")
    axes[2].set_ylabel("share of patch attention, %")
    axes[2].set_ylim(0, 100)
    axes[2].legend(frameon=False)
    for axis in axes:
        axis.set_xlabel("global layer")
        axis.grid(alpha=0.25)
    return _save(plt, figure, path)


def draw_profile(
    rows: Sequence[Row], proposed: Sequence[str], bounds: tuple[float, float], path: Path
) -> Path:
    """Draw the effect of each regime by layer; filled marks show the proposed regimes.

    Args:
        rows: Effects, one for each layer and regime.
        proposed: Regime of each layer in the proposed schedule.
        bounds: Bounds on the pose drift, in degrees, and on the depth drift, as a fraction.
        path: PNG file to write.
    """
    plt = pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    panels = (
        ("change", 100.0, None, "change of the layer's attention, % RMS"),
        ("pose_deg", 1.0, bounds[0], "pose drift of the scene, degrees"),
        ("depth_rel", 100.0, 100 * bounds[1], "depth drift of the scene, %"),
    )
    for axis, (name, factor, bound, label) in zip(axes, panels, strict=True):
        for number, regime in enumerate(dict.fromkeys(row["regime"] for row in rows)):
            own = [r for r in rows if r["regime"] == regime and r[name] is not None]
            layers, values = [r["layer"] for r in own], [factor * r[name] for r in own]
            colour = _REGIMES[number]
            faces = [colour if proposed[layer] == regime else "white" for layer in layers]
            axis.plot(layers, values, color=colour, label=regime)
            axis.scatter(layers, values, s=30, c=faces, edgecolors=colour, zorder=3)
        if bound is not None:
            axis.axhline(bound, color="#222222", lw=1, ls=":", label="bound")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("global layer")
        axis.set_ylabel(label)
        axis.grid(alpha=0.25)
    axes[1].legend(frameon=False, title="alone in its layer")
    return _save(plt, figure, path)


def _dense_line(axis: Any, rows: Sequence[Row], name: str = "auc30") -> None:
    for r in rows:
        if r["kind"] == "dense" and r.get(name) is not None:
            axis.axhline(100 * r[name], color="#222222", lw=1, ls=":", label="dense")
            return


def _from_zero(axis: Any) -> None:
    """Start the axis at 0, so that noise does not look like a cliff."""
    axis.set_ylim(0, min(1.15 * axis.get_ylim()[1], 102))


def _save(plt: Any, figure: Any, path: Path) -> Path:
    with atomic_file(path) as stream:
        figure.savefig(stream, dpi=130, format="png")
    plt.close(figure)
    return path
