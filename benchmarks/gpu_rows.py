"""Rows of each table of the GPU benchmark: kernels, precisions, maps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from covis.export.ops.cuda.attention import Kernel, Precision

DENSITIES = (1.0, 0.25, 0.126, 0.062, 0.03)
ANCHORS = (0, 10, 25, 40)
PRECISIONS: tuple[Precision, ...] = ("full", "fp8")
SUBJECTS = tuple(
    f"{kernel} {precision}"
    for kernel in ("hopper", "hopper-polynomial", "portable")
    for precision in PRECISIONS
)


@dataclass(frozen=True)
class Row:
    """One row to measure.

    Attributes:
        name: Name of the map.
        level: Lowest level of the computed pairs: 1 may be computed in FP8.
        density: Share of frame pairs that are computed; None for a map of one element, or of
            anchors.
        anchors: Number of anchors that all frames share; 0 for the own frame alone.
        kernel: Kernel, see `covis.export.ops.cuda.attention`.
        precision: Precision, see `covis.export.ops.cuda.attention`.
    """

    name: str
    level: int
    density: float | None = None
    anchors: int | None = None
    kernel: Kernel = "auto"
    precision: Precision = "full"


def subject(kernel: Kernel, precision: Precision, *, hopper: bool) -> str:
    """Return the name of the kernel that runs, as in the kernel checks, e.g. "hopper fp8"."""
    chosen = ("hopper" if hopper else "portable") if kernel == "auto" else kernel
    return f"{chosen} {precision}"


def planned_rows(hopper: bool, head_dim: int, left_out: Collection[str]) -> list[Row]:
    """Return dense maps by every kernel and precision, frame pairs of all densities, and anchors.

    Args:
        hopper: True if the GPU has the Hopper kernels, and so FP8.
        head_dim: Head dimension of the table.
        left_out: Names of kernels that are not measured, see `subject`.
    """
    kernels: list[Kernel] = ["auto"]
    if hopper and head_dim == 64:
        kernels.append("hopper-polynomial")
    rows: list[Row] = []
    for kernel in kernels:
        rows.append(Row("dense map", 2, kernel=kernel))
        if hopper:
            rows.append(Row("dense map", 1, kernel=kernel, precision="fp8"))
    rows += [Row("frame pairs", 2, density) for density in DENSITIES]
    rows += [Row(f"anchors {n}" if n else "own frame", 2, anchors=n) for n in ANCHORS]
    if hopper:
        rows += [
            Row("frame pairs, levels 1, 2", 1, density, precision=precision)
            for density in (0.25, 0.126)
            for precision in PRECISIONS
        ]
    return [
        row for row in rows if subject(row.kernel, row.precision, hopper=hopper) not in left_out
    ]
