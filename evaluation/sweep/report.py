"""Tables of a sweep: the published ones in their own form, and those of this project."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from covis.engines.options import Sparsity
from covis.evaluation.accuracy.scoring import Record
from covis.evaluation.accuracy.summary import aggregate
from covis.evaluation.metrics.pose import THRESHOLDS
from covis.evaluation.sweep.settings import Setting

Row = dict[str, Any]

STRICT = 5
"""Degrees of the second table of each comparison, because a loss of accuracy can hide at 30."""
_AUCS = tuple(f"AUC@{threshold}" for threshold in THRESHOLDS)


def row(setting: Setting, records: Sequence[Record]) -> Row:
    """Return a row of a setting with the summary of its scenes."""
    layers = [record["sparse_layers"] for record in records]
    described = setting.describe()
    described["pairs_source"] = described.pop("pairs")  # in a summary `pairs` is a number of pairs
    return {**described, **aggregate(records), "sparse_layers": layers[0] if layers else None}


def pareto(rows: Sequence[Row], cost: str = "attention_work", gain: str = "auc30") -> list[Row]:
    """Return the rows that no other beats in both cost (less) and gain (more), by rising cost."""
    out: list[Row] = []
    usable = [r for r in rows if r.get(cost) is not None and r.get(gain) is not None]
    for candidate in sorted(usable, key=lambda r: (r[cost], -r[gain])):
        if not out or candidate[gain] > out[-1][gain]:
            out.append(candidate)
    return out


def without_controls(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without random choices and those by the truth, which nobody would use."""
    return [
        r
        for r in rows
        if r["pairs_source"] == "saliency" and r.get("choice") not in ("random", "oracle")
    ]


def markdown(rows: Sequence[Row], depth: int) -> str:
    """Format all tables of a sweep of one bundle in Markdown.

    Args:
        rows: Rows from `row`.
        depth: Number of global layers of the model.
    """
    dense = next((r for r in rows if r["kind"] == "dense"), None)
    parts = []
    if dense is not None:
        head = f"Dense, {dense['scenes']} scenes, {dense['views']} views, {dense['pairs']} pairs"
        parts.append(f"{head}: " + ", ".join(f"AUC@{t} {_auc(dense, t)}" for t in THRESHOLDS))
    parts += [
        _by_tau(rows),
        *_at_both(lambda t: _by_layers(rows, depth, dense, t)),
        *_at_both(lambda t: _by_pairs(rows, dense, t)),
        _pooled(rows),
        *_at_both(lambda t: _drops(rows, depth, dense, t)),
        _anchors(rows),
        *_at_both(lambda t: _by_choice(rows, dense, t)),
        _schedules(rows),
        _frontier(rows),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _at_both(table: Callable[[int], str]) -> tuple[str, str]:
    return table(30), table(STRICT)


def _by_tau(rows: Sequence[Row]) -> str:
    """Format the published table of tau: pairs |E| and relative blocks."""
    found = [r for r in rows if r["kind"] == "tau"]
    one = {r["sparsity"]["tau"]: r for r in found}  # |E| does not depend on the layers
    lines = [
        [f"{tau:g}", f"{r['kept_pairs']:.1f}", f"{r['relative_blocks']:.1%}"]
        for tau, r in sorted(one.items())
    ]
    return _table("Pairs by tau", ("tau", "pairs \\|E\\|", "relative blocks"), lines)


def _by_layers(rows: Sequence[Row], depth: int, dense: Row | None, threshold: int) -> str:
    """Format the published table of L: AUC by the number of sparse layers, a column per tau."""
    found = [r for r in rows if r["kind"] == "tau"]
    taus = sorted({r["sparsity"]["tau"] for r in found})
    layers = list(dict.fromkeys(r["sparsity"]["layers"] for r in found))
    at = {(r["sparsity"]["layers"], r["sparsity"]["tau"]): r for r in found}
    lines = []
    if dense is not None and found:
        lines.append([f"0 of {depth}", *[_auc(dense, threshold)] * len(taus)])
    for word in layers:
        cells = [at.get((word, tau)) for tau in taus]
        count = next(r["sparse_layers"] for r in cells if r is not None)
        aucs = ("" if r is None else _auc(r, threshold) for r in cells)
        lines.append([f"{count} of {depth}", *aucs])
    columns = ("sparse layers L", *(f"tau {t:g}" for t in taus))
    return _table(f"AUC@{threshold} by L", columns, lines)


def _by_pairs(rows: Sequence[Row], dense: Row | None, threshold: int) -> str:
    """Format choices of pairs at equal count, with the difference to dense beside each AUC."""
    found = [r for r in rows if r["kind"] == "pairs"]
    sources = list(dict.fromkeys(r["pairs_source"] for r in found))
    keys = list(dict.fromkeys((r["share"], r["sparsity"]["layers"]) for r in found))
    at = {(r["share"], r["sparsity"]["layers"], r["pairs_source"]): r for r in found}
    lines = []
    for share, layers in keys:
        cells = [at.get((share, layers, source)) for source in sources]
        first = next(r for r in cells if r is not None)
        text = [f"{share:.1%}", f"{first['relative_blocks']:.1%}", str(first["sparse_layers"])]
        lines.append(text + [_with_loss(r, dense, threshold) for r in cells])
    columns = ("asked", "pairs kept", "sparse layers", *sources)
    return _table(f"AUC@{threshold} by selector of pairs, at the same count", columns, lines)


def _pooled(rows: Sequence[Row]) -> str:
    lines = [
        [
            r["sparsity"]["selector"],
            f"{r['sparsity']['keep_ratio']:g}",
            str(r["sparse_layers"]),
            f"{r['kept_blocks']:.1%}",
            *_work_and_aucs(r),
        ]
        for r in rows
        if r["kind"] == "pooled"
    ]
    columns = ("selector", "keep ratio", "sparse layers", "blocks kept", "attention computed")
    return _table("Pooled selector", (*columns, *_AUCS), lines)


def _drops(rows: Sequence[Row], depth: int, dense: Row | None, threshold: int) -> str:
    """Format AUC by the number and the position of the sparse layers."""
    found = [r for r in rows if r["kind"] == "drop"]
    counts = sorted({r["sparse_layers"] for r in found})
    at = {(r["drop"], r["sparse_layers"]): r for r in found}
    lines = []
    for drop in dict.fromkeys(r["drop"] for r in found):
        cells = [at.get((drop, count)) for count in counts]
        lines.append([drop, *(_with_loss(r, dense, threshold) for r in cells)])
    columns = ("sparse layers taken from", *(f"{count} of {depth}" for count in counts))
    share = f" ({found[0]['share']:.1%} of the pairs)" if found else ""
    return _table(f"AUC@{threshold} by which layers are sparse{share}", columns, lines)


def _anchors(rows: Sequence[Row]) -> str:
    """Format accuracy by budget: the anchors of k-center, with the rule beside them."""
    lines = [
        [str(r["sparsity"]["anchors"]), _rule(r), *_work_and_aucs(r)]
        for r in rows
        if r["kind"] == "anchors" and r["choice"] == "kcenter"
    ]
    columns = ("anchors", "beside them", "attention computed", *_AUCS)
    return _table("Anchors by k-center, default schedule", columns, lines)


def _by_choice(rows: Sequence[Row], dense: Row | None, threshold: int) -> str:
    """Format choices of anchors at equal count, with the difference to dense beside each AUC."""
    found = [r for r in rows if r["kind"] == "anchors"]
    choices = list(dict.fromkeys(map(_choice, found)))
    if len(choices) < 2:
        return ""
    keys = list(dict.fromkeys((r["sparsity"]["anchors"], _rule(r)) for r in found))
    at = {(r["sparsity"]["anchors"], _rule(r), _choice(r)): r for r in found}
    lines = [
        [str(n), rule, *(_with_loss(at.get((n, rule, c)), dense, threshold) for c in choices)]
        for n, rule in keys
    ]
    columns = ("anchors", "beside them", *choices)
    return _table(f"AUC@{threshold} by choice of anchors, at the same count", columns, lines)


def _choice(r: Row) -> str:
    """Return the choice of a row's anchors, with the seed of random ones."""
    seed = r["sparsity"]["anchor_seed"]
    return f"random, seed {seed}" if r["choice"] == "random" else str(r["choice"])


def _rule(r: Row) -> str:
    """Return what each view attends to beside the anchors and the reference view."""
    sparsity = Sparsity(**r["sparsity"])
    parts = ["own frame"] if sparsity.own_frame else []
    parts += [f"{n} neighbours"] if (n := sparsity.anchor_neighbours) else []
    return ", ".join(parts) or "nothing"


def _schedules(rows: Sequence[Row]) -> str:
    lines = [
        [f"`{r['schedule']}`", str(r["sparsity"]["anchors"]), *_work_and_aucs(r)]
        for r in rows
        if r["kind"] == "schedule"
    ]
    columns = ("schedule", "anchors", "attention computed", *_AUCS)
    return _table("Schedules", columns, lines)


def _frontier(rows: Sequence[Row]) -> str:
    """Format the settings on the Pareto frontier."""
    lines = [[r["name"], *_work_and_aucs(r)] for r in pareto(without_controls(rows))]
    return _table("Pareto frontier", ("setting", "attention computed", *_AUCS), lines)


def _work_and_aucs(r: Row) -> list[str]:
    return [f"{r['attention_work']:.1%}", *(_auc(r, t) for t in THRESHOLDS)]


def _auc(r: Row, threshold: int) -> str:
    value = r.get(f"auc{threshold}")
    return "" if value is None else f"{100 * value:.1f}"


def _with_loss(r: Row | None, dense: Row | None, threshold: int) -> str:
    """Return an AUC with its difference to dense; "" for a setting that was not run."""
    if r is None:
        return ""
    name = f"auc{threshold}"
    if dense is None or r.get(name) is None:
        return _auc(r, threshold)
    return f"{_auc(r, threshold)} ({100 * (r[name] - dense[name]):+.1f})"


def _table(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return ""
    head = [f"**{title}**", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)])
