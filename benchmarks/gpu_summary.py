"""Results against the targets: each is a ratio within one run, never across runs or cards."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]

# Name, must, stretch; bigger is better unless `share`.
DENSE_FP16 = ("dense map, fp16, of D", 0.95, 1.10)
DENSE_FP8 = ("dense map, fp8, of D", 1.25, 1.45)
SPEED_UP = {0.25: (3.4, 3.7), 0.126: (6.7, 7.3), 0.062: (13.0, 14.0)}
EFFICIENCY = {0.25: (0.85, 0.92), 0.126: (0.85, 0.92), 0.062: (0.80, 0.88)}
MAP_SHARE = ("building the map, share of one dense layer", 0.01, 0.002)
MEMORY_SHARE = ("extra peak memory, share of Q, K, V and O", 0.01, 0.0)
PEER = ("against the fastest sparse peer's time on the same map, D = 64", 1.1, 1.5)


def summary(result: Record) -> list[Record]:
    """Return the table of targets for the first table of a result; `value` None if not measured."""
    table = next((t for t in result.get("tables", []) if t["head_dim"] == 64), None)
    rows: list[Record] = []
    if table is None:
        return rows
    best = _best(table["rows"], "dense map", "full")
    rows.append(_row(DENSE_FP16, best and best["of_D"]))
    best = _best(table["rows"], "dense map", "fp8")
    rows.append(_row(DENSE_FP8, best and best["of_D"]))
    for density, (least, aim) in SPEED_UP.items():
        row = _near(table["rows"], density)
        percent = f"at {100 * density:g} %"
        must, stretch = EFFICIENCY[density]
        name = (f"efficiency on selected pairs {percent}", must, stretch)
        rows.append(_row(name, row and row["efficiency"]))
        rows.append(_row((f"speed-up {percent}", least, aim), row and row["speed_up"]))
    rows.append(_row(MAP_SHARE, table.get("map_share"), share=True))
    extra = table.get("extra_memory", {}).get("full")
    rows.append(_row(MEMORY_SHARE, extra and extra["share_of_qkvo"], share=True))
    rows.append(_row(PEER, peer_ratio(result)))
    return rows


def peer_ratio(result: Record) -> float | None:
    """Return the smallest ratio of a peer's time to ours, on the peer's rounding of the map."""
    peers = result.get("peers", {})
    ours = peers.get("ours", {})
    ratios = [
        peer["ms"] / ours["{} x {}".format(*peer["block"])]["ms"]
        for peer in peers.get("of", {}).values()
        if "ms" in peer and "{} x {}".format(*peer["block"]) in ours
    ]
    return min(ratios, default=None)


def text(result: Record) -> str:
    """Return the summary as lines."""
    lines = []
    for table in result.get("tables", []):
        if "D" not in table:  # cut before its first row
            continue
        lines.append(
            f"{table['tokens']} tokens, head dimension {table['head_dim']}: "
            f"D = {table['D']['tflops']:.0f} TFLOP/s by {table['D']['by']}"
        )
        lines += [
            f"  {row['map']:22} {row.get('density', 1.0):6.3f} {row['kernel']:18} "
            f"{row['precision']:5} {row['ms']:10.3f} ms {row['tflops']:7.1f} TFLOP/s"
            for row in table["rows"]
        ]
    for row in result.get("summary", []):
        value = "not measured" if row["value"] is None else f"{row['value']:.4g}"
        verdict = {True: "met", False: "MISSED", None: ""}[row["met"]]
        lines.append(f"{row['target']}: {value} (must {row['must']:g}) {verdict}")
    return "\n".join(lines)


def _row(target: tuple[str, float, float], value: float | None, *, share: bool = False) -> Record:
    name, must, stretch = target
    met = None if value is None else (value <= must if share else value >= must)
    return {"target": name, "must": must, "stretch": stretch, "value": value, "met": met}


def _best(rows: list[Record], name: str, precision: str) -> Record | None:
    found = [r for r in rows if r["map"] == name and r["precision"] == precision]
    return min(found, key=lambda r: r["ms"], default=None)


def _near(rows: list[Record], density: float) -> Record | None:
    found = [
        r
        for r in rows
        if r["map"] == "frame pairs"
        and r["precision"] == "full"
        and abs(r["density"] - density) < 0.1 * density
    ]
    return min(found, key=lambda r: r["ms"], default=None)
