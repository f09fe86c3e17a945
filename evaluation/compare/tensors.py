"""Differences between two runs tensor by tensor, and the search for parts to keep in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SAMPLE = 1_000_000  # values to rank at most, because sorting is expensive


@dataclass(frozen=True)
class TensorError:
    """Differences between a candidate's tensor and the reference's.

    Attributes:
        tensor: Name of the tensor.
        max_abs: Largest absolute difference.
        mean_abs: Mean absolute difference.
        max_rel: Largest absolute difference over the largest absolute value of the reference.
        rel_l2: Euclidean norm of the difference over that of the reference.
        p99_rel: 99th percentile of |a - b| / |b|, over the values where |b| is at least a
            thousandth of the largest.
        rank: 1 - Spearman's rank correlation (0: same order; 1: unrelated), of at most a million
            values, evenly sampled. Similarities and confidences matter by their order alone.
        non_finite: Number of values of the candidate that are not finite, which no other field
            counts.
        worst_image: Index of the view with the largest `rel_l2` of its own; None where the tensor
            has no dimension of views.
        worst_image_rel_l2: That `rel_l2`.
    """

    tensor: str
    max_abs: float
    mean_abs: float
    max_rel: float
    rel_l2: float
    p99_rel: float
    rank: float
    non_finite: int = 0
    worst_image: int | None = None
    worst_image_rel_l2: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the differences for JSON."""
        return asdict(self)


def tensor_error(
    name: str, candidate: NDArray[Any], reference: NDArray[Any], *, views: int | None = None
) -> TensorError:
    """Compare two arrays of the same shape.

    Args:
        name: Name of the tensor.
        candidate: Array of any numeric type.
        reference: Array of any numeric type.
        views: Size of the leading dimension where it counts views; None where it does not.
    """
    import numpy as np

    if candidate.shape != reference.shape:
        raise ValueError(f"{name}: {candidate.shape} against {reference.shape}")
    a, b = candidate.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    finite = np.isfinite(a) & np.isfinite(b)
    lost = int((~np.isfinite(a)).sum())
    difference = np.where(finite, np.abs(a - b, where=finite, out=np.zeros_like(a)), 0.0)
    size = np.abs(np.where(finite, b, 0.0))
    largest = float(size.max(initial=0.0))
    matters = finite & (size >= 1e-3 * largest) & (size > 0)
    shares = difference[matters] / size[matters]
    worst, worst_value = None, None
    if views is not None and views > 0 and a.size:
        by_view = _rel_l2(difference.reshape(views, -1), size.reshape(views, -1))
        worst = int(np.argmax(by_view))
        worst_value = float(by_view[worst])
    return TensorError(
        tensor=name,
        max_abs=float(difference.max(initial=0.0)),
        mean_abs=float(difference.mean()) if a.size else 0.0,
        max_rel=_ratio(float(difference.max(initial=0.0)), largest),
        rel_l2=float(_rel_l2(difference[None], size[None])[0]),
        p99_rel=float(np.quantile(shares, 0.99)) if shares.size else 0.0,
        rank=rank_error(a[finite], b[finite]),
        non_finite=lost,
        worst_image=worst,
        worst_image_rel_l2=worst_value,
    )


def rank_error(candidate: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return 1 - Spearman's rank correlation; ties share their mean rank, constants give 0."""
    import numpy as np

    step = max(1, -(-candidate.size // _SAMPLE))
    a, b = ranks(candidate.ravel()[::step]), ranks(reference.ravel()[::step])
    if a.size < 2:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    if scale == 0.0:
        return 0.0 if float(a @ a) == float(b @ b) else 1.0
    return max(0.0, 1.0 - float(a @ b) / scale)


def ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the rank of each value, from 0; ties share their mean rank."""
    import numpy as np

    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    places: NDArray[np.float64] = (last - (counts + 1) / 2)[inverse.ravel()]
    return places


def find_kept(
    units: Sequence[str], failing: Callable[[frozenset[str]], float]
) -> tuple[str, ...] | None:
    """Find units that must keep the reference's precision, as few as a bisection finds.

    Args:
        units: Stages or layers, the most suspect first.
        failing: Returns the error over its tolerance of a run with these units from the reference
            and all others from the candidate; it passes at 1 or less. Each call is a whole run.

    Returns:
        The units to keep, in the order of `units`; empty where the candidate passes as it is; None
        where it fails even with all of them kept, so that something else is at fault.
    """
    if failing(frozenset()) <= 1.0:
        return ()
    if not failing(frozenset(units)) <= 1.0:  # NaN fails, too
        return None
    low, high = 0, len(units)  # a run fails with `low` units kept, and passes with `high`
    while high - low > 1:
        middle = (low + high) // 2
        if failing(frozenset(units[:middle])) <= 1.0:
            high = middle
        else:
            low = middle
    kept = list(units[:high])
    # A suspect may be innocent, so each is tried without; the last one is known to matter.
    for unit in list(reversed(kept[:-1])):
        fewer = frozenset(kept) - {unit}
        if failing(fewer) <= 1.0:
            kept.remove(unit)
    return tuple(kept)


def export_option(kept: Sequence[str]) -> str:
    """Return the option of `covis export` that keeps these stages and layers in float32."""
    return f"--keep-fp32 {','.join(kept)}" if kept else ""


def _rel_l2(difference: NDArray[Any], size: NDArray[Any]) -> NDArray[np.float64]:
    import numpy as np

    top, bottom = (np.sqrt((x * x).sum(axis=1)) for x in (difference, size))
    shares: NDArray[np.float64] = np.where(
        bottom > 0, top / np.where(bottom > 0, bottom, 1.0), np.where(top > 0, 1.0, 0.0)
    )
    return shares


def _ratio(top: float, bottom: float) -> float:
    return top / bottom if bottom > 0 else (0.0 if top == 0 else 1.0)
