"""Tables of a sweep: the published ones in their own form, and those of this project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from covis.evaluation.accuracy.scoring import Record
from covis.evaluation.accuracy.summary import aggregate
from covis.evaluation.sweep.sweep import Setting, describe

Row = dict[str, Any]


def row(setting: Setting, records: Sequence[Record]) -> Row:
    """Return a row of a setting with the summary of its scenes."""
    summary = aggregate(records)
    work = [record["attention_work"] for record in records]
    layers = [record["sparse_layers"] for record in records]
    described = describe(setting)
    described["pairs_source"] = described.pop("pairs")  # in a summary `pairs` is a number of pairs
    return {
        **described,
        **summary,
        "attention_work": float(np.mean(work)) if work else None,
        "sparse_layers": layers[0] if layers else None,
    }


def pareto(rows: Sequence[Row], cost: str = "attention_work", gain: str = "auc30") -> list[Row]:
    """Return the rows that no other beats in both cost (less) and gain (more), by rising cost."""
    out: list[Row] = []
    usable = [r for r in rows if r.get(cost) is not None and r.get(gain) is not None]
    for candidate in sorted(usable, key=lambda r: (r[cost], -r[gain])):
        if not out or candidate[gain] > out[-1][gain]:
            out.append(candidate)
    return out


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
        parts.append(f"{head}: " + ", ".join(f"AUC@{t} {_auc(dense, t)}" for t in (30, 15, 5)))
    for table in (_by_tau(rows), _by_layers(rows, depth, dense), _by_pairs(rows, dense),
                  _pooled(rows), _drops(rows, depth, dense), _frontier(rows)):  # fmt: skip
        if table:
            parts.append(table)
    return "\n\n".join(parts) + "\n"


def _by_tau(rows: Sequence[Row]) -> str:
    """Format the published table of tau: pairs |E| and relative blocks."""
    found = [r for r in rows if r["kind"] == "tau"]
    one = {r["sparsity"]["tau"]: r for r in found}  # |E| does not depend on the layers
    lines = [
        [f"{tau:g}", f"{r['kept_pairs']:.1f}", f"{r['relative_blocks']:.1%}"]
        for tau, r in sorted(one.items())
    ]
    return _table("Pairs by tau", ("tau", "pairs \\|E\\|", "relative blocks"), lines)


def _by_layers(rows: Sequence[Row], depth: int, dense: Row | None) -> str:
    """Format the published table of L: AUC by the number of sparse layers, a column per tau."""
    found = [r for r in rows if r["kind"] == "tau"]
    taus = sorted({r["sparsity"]["tau"] for r in found})
    layers = list(dict.fromkeys(r["sparsity"]["layers"] for r in found))
    at = {(r["sparsity"]["layers"], r["sparsity"]["tau"]): r for r in found}
    lines = []
    if dense is not None and found:
        lines.append([f"0 of {depth}", *[_auc(dense, 30)] * len(taus)])
    for word in layers:
        cells = [at.get((word, tau)) for tau in taus]
        count = next(r["sparse_layers"] for r in cells if r is not None)
        lines.append([f"{count} of {depth}", *("" if r is None else _auc(r, 30) for r in cells)])
    return _table("AUC@30 by L", ("sparse layers L", *(f"tau {t:g}" for t in taus)), lines)


def _by_pairs(rows: Sequence[Row], dense: Row | None) -> str:
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
        lines.append(text + ["" if r is None else _with_loss(r, dense) for r in cells])
    columns = ("asked", "pairs kept", "sparse layers", *sources)
    return _table("AUC@30 by selector of pairs, at the same count", columns, lines)


def _pooled(rows: Sequence[Row]) -> str:
    lines = [
        [
            r["sparsity"]["selector"],
            f"{r['sparsity']['keep_ratio']:g}",
            str(r["sparse_layers"]),
            f"{r['kept_blocks']:.1%}",
            f"{r['attention_work']:.1%}",
            *(_auc(r, t) for t in (30, 15, 5)),
        ]
        for r in rows
        if r["kind"] == "pooled"
    ]
    columns = ("selector", "keep ratio", "sparse layers", "blocks kept", "attention computed")
    return _table("Pooled selector", (*columns, "AUC@30", "AUC@15", "AUC@5"), lines)


def _drops(rows: Sequence[Row], depth: int, dense: Row | None) -> str:
    """Format AUC by the number and the position of the sparse layers."""
    found = [r for r in rows if r["kind"] == "drop"]
    counts = sorted({r["sparse_layers"] for r in found})
    at = {(r["drop"], r["sparse_layers"]): r for r in found}
    lines = []
    for drop in dict.fromkeys(r["drop"] for r in found):
        cells = [at.get((drop, count)) for count in counts]
        lines.append([drop, *("" if r is None else _with_loss(r, dense) for r in cells)])
    columns = ("sparse layers taken from", *(f"{count} of {depth}" for count in counts))
    share = f" ({found[0]['share']:.1%} of the pairs)" if found else ""
    return _table(f"AUC@30 by which layers are sparse{share}", columns, lines)


def _frontier(rows: Sequence[Row]) -> str:
    """Format the settings on the Pareto frontier."""
    lines = [
        [r["name"], f"{r['attention_work']:.1%}", *(_auc(r, t) for t in (30, 15, 5))]
        for r in pareto([r for r in rows if r.get("pairs_source", "saliency") == "saliency"])
    ]
    columns = ("setting", "attention computed", "AUC@30", "AUC@15", "AUC@5")
    return _table("Pareto frontier", columns, lines)


def _auc(r: Row, threshold: int) -> str:
    value = r.get(f"auc{threshold}")
    return "" if value is None else f"{100 * value:.1f}"


def _with_loss(r: Row, dense: Row | None) -> str:
    if dense is None or r.get("auc30") is None:
        return _auc(r, 30)
    return f"{_auc(r, 30)} ({100 * (r['auc30'] - dense['auc30']):+.1f})"


def _table(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return ""
    head = [f"**{title}**", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)])
