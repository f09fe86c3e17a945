"""Pictures of docs/explanation/accuracy.md, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accuracy.settings import LAYER_CURVES, SHARES
from accuracy.statistics import Results
from accuracy.tables import CURVE_TITLES, DENSE, SELF, kept, names_at
from covis.engines.system.atomic import atomic_file
from covis.evaluation.sweep.pictures import pyplot

_CHOICES = {
    "anchors, k-center": ("#b3332b", "o-"),
    "anchors, random": ("#dd9e99", "s--"),
    "pairs, saliency": ("#0c447c", "o-"),
    "pairs, random": ("#999999", "s--"),
    "pairs, oracle": ("#c27c0e", "o-"),
}
_CURVES = dict(zip(LAYER_CURVES, ("#0c447c", "#2a9d6f", "#b3332b"), strict=True))


def draw_choices(every: Mapping[int, Results], path: Path) -> Path:
    """Draw AUC@30 by share of the pairs, a panel for each number of views."""
    plt = pyplot()
    size = (3.4 * len(every) + 0.6, 3.6)
    figure, axes = plt.subplots(
        1, len(every), figsize=size, sharey=True, layout="constrained", squeeze=False
    )
    for axis, (views, results) in zip(axes[0], every.items(), strict=True):
        for choice, (colour, style) in _CHOICES.items():
            found = [results.estimate(names_at(choice, share), "auc30") for share in SHARES]
            axis.errorbar(
                [100 * kept(results, share) for share in SHARES],
                [100 * one.mean for one in found],
                [100 * one.error for one in found],
                fmt=style, ms=4, lw=1.2, color=colour, label=choice,
            )  # fmt: skip
        for name, style in ((DENSE, ":"), (SELF, "--")):
            level = 100 * results.estimate(name, "auc30").mean
            label = "dense" if name == DENSE else name
            axis.axhline(level, color="#222222", lw=1, ls=style, label=label)
        axis.set_title(f"{views} views", fontsize=10)
        axis.set_xlabel("pairs computed, %")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("AUC@30")
    axes[0][-1].legend(frameon=False, fontsize=8)
    return _save(plt, figure, path)


def draw_layers(results: Results, depth: int, path: Path) -> Path:
    """Draw AUC@30 by layer, where some layers see their own view alone or few pairs."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    titles = {"self": "patches see their own view alone", "sparse": "most similar pairs"}
    for axis, (way, title) in zip(axes, titles.items(), strict=True):
        for curve, colour in _CURVES.items():
            found = [results.estimate(f"{way} {curve} {i}", "auc30").mean for i in range(depth)]
            label = CURVE_TITLES[curve]
            axis.plot(range(depth), [100 * f for f in found], "o-", color=colour, label=label)
        dense = 100 * results.estimate(DENSE, "auc30").mean
        axis.axhline(dense, color="#222222", lw=1, ls=":", label="dense")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("global layer l")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("AUC@30")
    axes[0].legend(frameon=False, fontsize=8)
    return _save(plt, figure, path)


def draw_attention(layers: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw relative entropy, matches found and concentration by layer; a point for each head."""
    plt = pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    index = [layer["layer"] for layer in layers]
    panels = (("relative", "entropy / log of keys"), ("found", "true matches found"))
    for axis, (name, label) in zip(axes, panels, strict=False):
        for head in range(len(layers[0][name])):
            axis.plot(index, [layer[name][head] for layer in layers], "o-", label=f"head {head}")
        axis.set_ylabel(label)
        axis.set_ylim(0, 1)
    for share, colour in (("1", "#0c447c"), ("5", "#2a9d6f"), ("10", "#c27c0e")):
        values = [layer["top_blocks"][share] for layer in layers]
        axes[2].plot(index, values, "o-", color=colour, label=f"top {share} % of blocks")
    axes[2].set_ylabel("share of patch attention")
    axes[2].set_ylim(0, 1)
    for axis in axes:
        axis.set_xlabel("global layer")
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=8)
    return _save(plt, figure, path)


def _save(plt: Any, figure: Any, path: Path) -> Path:
    """Write a figure as SVG, the same bytes for the same numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fixed = {"svg.hashsalt": path.stem, "svg.fonttype": "none"}
    with plt.rc_context(fixed), atomic_file(path) as stream:
        figure.savefig(stream, format="svg", metadata={"Date": None})
    plt.close(figure)
    return path
