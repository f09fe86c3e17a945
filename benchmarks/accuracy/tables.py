"""Tables of docs/explanation/accuracy.md. AUC is in percent, and `±` is one standard error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from accuracy.settings import CHOICES, LAYER_CURVES, LOWEST, SHARES, at
from accuracy.statistics import Estimate, Results
from covis.evaluation.metrics.pose import THRESHOLDS

AUCS = tuple(f"AUC@{threshold}" for threshold in THRESHOLDS)
DENSE = "covis-mini"
SELF = "self only"


def count(results: Results) -> str:
    """Return the number and kinds of the scenes of a part."""
    one = "1 scene" if results.scenes == 1 else f"{results.scenes} scenes"
    kinds = results.kinds
    return f"{one} of {kinds[0]}" if len(kinds) == 1 else f"{one} of each of {', '.join(kinds)}"


def table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    head = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def percent(found: Estimate) -> str:
    """Return a share in percent, with its standard error where there are several scenes."""
    return f"{100 * found.mean:.1f}{_error(found, 100)}"


def points(found: Estimate) -> str:
    """Return a difference in percentage points, with its sign and standard error."""
    return f"{100 * found.mean:+.1f}{_error(found, 100)}"


def _error(found: Estimate, factor: float) -> str:
    return "" if math.isnan(found.error) else f" ± {factor * found.error:.1f}"


def names_at(choice: str, share: float) -> tuple[str, ...]:
    """Return the settings whose mean is a choice of pairs or anchors at a share."""
    return tuple(at(name, share) for name in CHOICES[choice])


def kept(results: Results, share: float) -> float:
    """Return the share of the pairs that is computed where a share was asked."""
    return results.estimate(names_at("anchors, k-center", share), "work").mean


def estimators(results: Results, trained: Sequence[str]) -> str:
    """Return the table of dense attention against baselines, by kind."""
    columns = (
        "scenes", "estimator", *AUCS, "AUC@30, signed", "rotation", "translation", "AbsRel",
        "delta < 1.25",
    )  # fmt: skip
    lines = []
    for kind in results.kinds:
        mark = "" if not trained or kind in trained else " (not trained on)"
        for name, by_kind in results.settings.items():
            found = by_kind[kind]
            cells = [percent(results.estimate(name, "auc30", kind))]
            aucs = [*THRESHOLDS[1:], "30_directed"]
            cells += [f"{100 * np.mean(found[f'auc{t}']):.1f}" for t in aucs]
            cells += [f"{np.mean(found[f'{k}_median']):.1f}°" for k in ("rotation", "translation")]
            depth = [found.get(key) for key in ("abs_rel", "delta_1.25")]
            cells += ["" if values is None else f"{np.mean(values):.3f}" for values in depth]
            lines.append([f"{kind}{mark}", name, *cells])
    return table(columns, lines)


def choices(results: Results) -> str:
    """Return the table of choices of pairs and anchors at equal counts."""
    columns = ["choice"]
    for share in SHARES:
        computed = f"{kept(results, share):.1%}"
        columns += [f"AUC@30 at {computed} of the pairs", "AUC@5"]
    lines = []
    for choice in CHOICES:
        cells = []
        for share in SHARES:
            names = names_at(choice, share)
            if names not in results:
                cells += ["", ""]
                continue
            lost = points(results.difference(names, DENSE, "auc30"))
            auc = 100 * results.estimate(names, "auc30").mean
            cells += [f"{auc:.1f} ({lost})", f"{100 * results.estimate(names, 'auc5').mean:.1f}"]
        if any(cells):
            lines.append([choice, *cells])
    return table(columns, lines)


BY_KIND = {
    "k-center": "anchors, k-center",
    "saliency": "pairs, saliency",
    "random": "pairs, random",
    "oracle": "pairs, oracle",
}


def by_kind(every: Mapping[int, Results]) -> str:
    """Return AUC@30 at the lowest share by kind of scenes and number of views."""
    columns = ("scenes", "views", "pairs", "dense", SELF, *BY_KIND)
    lines = []
    for kind in next(iter(every.values())).kinds:
        for views, results in every.items():
            cells = [percent(results.estimate(name, "auc30", kind)) for name in (DENSE, SELF)]
            for choice in BY_KIND.values():
                names = names_at(choice, LOWEST)
                cells.append(percent(results.estimate(names, "auc30", kind)))
            lines.append([kind, str(views), f"{kept(results, LOWEST):.1%}", *cells])
    return table(columns, lines)


def options(results: Results) -> str:
    """Return the table of what a user can choose."""
    columns = ("setting", "attention computed", *AUCS, "AUC@30 - dense", "moved from dense")
    lines = []
    for name in results.settings:
        work, moved = (results.estimate(name, metric).mean for metric in ("work", "moved"))
        lost = points(results.difference(name, DENSE, "auc30"))
        label = "dense" if name == DENSE else name
        lines.append([label, f"{work:.1%}", *_aucs(results, name), lost, f"{moved:.2f}°"])
    return table(columns, lines)


def _aucs(results: Results, name: str) -> Iterator[str]:
    yield percent(results.estimate(name, "auc30"))
    for threshold in THRESHOLDS[1:]:
        yield f"{100 * results.estimate(name, f'auc{threshold}').mean:.1f}"


CURVE_TITLES = {"alone": "layer l alone", "first": "layers 0 to l", "last": "layers l to the last"}


def layers(results: Results, depth: int) -> str:
    """Return the layer-drop curves: AUC@30 minus dense, by layer."""
    ways = {"self": SELF, "sparse": f"{LOWEST:.1%} of the pairs"}
    pairs = [(curve, way) for way in ways for curve in LAYER_CURVES]
    columns = ["l", *(f"{ways[way]}, {CURVE_TITLES[curve]}" for curve, way in pairs)]
    lines = [
        [
            str(layer),
            *(
                points(results.difference(f"{way} {curve} {layer}", DENSE, "auc30"))
                for curve, way in pairs
            ),
        ]
        for layer in range(depth)
    ]
    return table(columns, lines)


def precision(results: Results) -> str:
    """Return one row for each precision: AUC at all thresholds and what it moves."""
    columns = (
        "setting", *AUCS, "rotation", "translation", "AUC@30 - fp32", "AUC@3 - fp32",
        "moved from fp32",
    )  # fmt: skip
    lines = []
    for name in results.settings:
        cells = list(_aucs(results, name))
        for metric in ("rotation_median", "translation_median"):
            cells.append(f"{results.estimate(name, metric).mean:.2f}°")
        for metric in ("auc30", "auc3"):
            cells.append(points(results.difference(name, "fp32", metric)))
        lines.append([name, *cells, f"{results.estimate(name, 'moved').mean:.3f}°"])
    return table(columns, lines)


def kinds_of_tokens(layers: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of attention between kinds of tokens, and of its concentration."""
    kinds = ("special_special", "special_patch", "patch_special", "patch_patch")
    head = [f"{kind.replace('_', ' to ')}: mean, max" for kind in kinds]
    lines = []
    for layer in layers:
        weights = [layer["attention"][kind] for kind in kinds]
        cells = [f"{weight['mean']:.2e}, {weight['max']:.2f}" for weight in weights]
        cells += [f"{layer['top_blocks'][share]:.1%}" for share in ("1", "5", "10")]
        lines.append([str(layer["layer"]), *cells])
    return table(("layer", *head, "top 1 % of blocks", "5 %", "10 %"), lines)


def heads(layers: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of entropy and true matches, with the heads side by side."""
    columns = (
        "layer", "entropy, nats", "entropy / log of keys", "own view", "view 0", "special tokens",
        "true matches", "times chance", "matches found",
    )  # fmt: skip
    lines = []
    for layer in layers:
        chance = layer["chance"]
        times = [m / c if c else 0.0 for m, c in zip(layer["mass"], chance, strict=True)]
        lines.append(
            [
                str(layer["layer"]),
                " / ".join(f"{value:.2f}" for value in layer["entropy"]),
                " / ".join(f"{value:.2f}" for value in layer["relative"]),
                *(
                    " / ".join(f"{value:.1%}" for value in layer[name])
                    for name in ("own", "first", "special", "mass")
                ),
                " / ".join(f"{value:.1f}" for value in times),
                " / ".join(f"{value:.0%}" for value in layer["found"]),
            ]
        )
    return table(columns, lines)
