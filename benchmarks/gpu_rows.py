"""What each table of the GPU benchmark measures: kernels, precisions, maps."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from covis.export.ops.cuda.attention import Kernel, Precision

DENSITIES = (1.0, 0.25, 0.126, 0.062, 0.03)
PRECISIONS: tuple[Precision, ...] = ("full", "fp8")
SUBJECTS = tuple(
    f"{kernel} {precision}"
    for kernel in ("hopper", "hopper-polynomial", "portable")
    for precision in PRECISIONS
)


@dataclass(frozen=True)
class Row:
    """What one row measures.

    Attributes:
        name: of its map.
        level: the lowest level of computed pairs: 1 may be computed in FP8.
        density: share of frame pairs that are computed; None for a map of one element.
        kernel: see `covis.export.ops.cuda`.
        precision: likewise.
    """

    name: str
    level: int
    density: float | None = None
    kernel: Kernel = "auto"
    precision: Precision = "full"


def subject(kernel: Kernel, precision: Precision, *, hopper: bool) -> str:
    """The kernel that runs, in the words of the kernel checks, e.g. "hopper fp8"."""
    chosen = ("hopper" if hopper else "portable") if kernel == "auto" else kernel
    return f"{chosen} {precision}"


def planned_rows(hopper: bool, head_dim: int, left_out: Collection[str]) -> list[Row]:
    """Dense maps by every kernel and precision, then frame pairs of all densities.

    Args:
        hopper: whether the GPU has the Hopper kernels, and so FP8.
        head_dim: of the table.
        left_out: what is not measured, see `subject`.
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
    if hopper:
        rows += [
            Row("frame pairs, levels 1, 2", 1, density, precision=precision)
            for density in (0.25, 0.126)
            for precision in PRECISIONS
        ]
    return [
        row for row in rows if subject(row.kernel, row.precision, hopper=hopper) not in left_out
    ]
