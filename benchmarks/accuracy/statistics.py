"""Means, standard errors and paired differences over held-out scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = dict[str, NDArray[np.float64]]
"""A number by scene (n,), by kind of scenes."""

LEAST_FREEDOM = 5
"""Degrees of freedom from which two standard errors are about 95 % (with 5, 90 %)."""


@dataclass(frozen=True)
class Estimate:
    """Mean over kinds of the mean over scenes, and its standard error.

    Attributes:
        mean: Mean.
        error: Standard error of the mean over scenes: sqrt(sum of var_k / n_k) / number of kinds.
            Scenes alone are the sample; kinds are fixed. NaN with one scene of a kind.
        freedom: Degrees of freedom of the error: scenes minus kinds.
    """

    mean: float
    error: float
    freedom: int

    @staticmethod
    def of(values: Values) -> Estimate:
        """Return the estimate from values by kind and scene."""
        means = [float(np.mean(each)) for each in values.values()]
        if any(len(each) < 2 for each in values.values()):
            error = float("nan")
        else:
            variances = [float(np.var(each, ddof=1)) / len(each) for each in values.values()]
            error = float(np.sqrt(sum(variances))) / len(values)
        return Estimate(
            float(np.mean(means)), error, sum(len(each) - 1 for each in values.values())
        )

    @property
    def judged(self) -> bool:
        """True if there are enough scenes to judge by the standard error."""
        return self.freedom >= LEAST_FREEDOM

    @property
    def clear(self) -> bool:
        """True if the mean is more than two standard errors from 0, and the error is known."""
        return self.judged and abs(self.mean) > 2 * self.error


class Results:
    """Numbers of one part, by setting.

    Args:
        settings: Name of setting -> kind -> metric -> numbers by scene.
    """

    def __init__(self, settings: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> None:
        self.settings = settings

    def __contains__(self, names: str | Sequence[str]) -> bool:
        return all(name in self.settings for name in _listed(names))

    @property
    def kinds(self) -> list[str]:
        """Kinds of scenes."""
        return list(next(iter(self.settings.values())))

    @property
    def scenes(self) -> int:
        """Number of scenes of a kind."""
        first = next(iter(next(iter(self.settings.values())).values()))
        return len(next(iter(first.values())))

    def values(self, names: str | Sequence[str], metric: str, kind: str | None = None) -> Values:
        """Return a metric by kind and scene; of several settings, such as seeds, their mean."""
        kinds = self.kinds if kind is None else [kind]
        return {
            one: np.mean([self.settings[n][one][metric] for n in _listed(names)], axis=0)
            for one in kinds
        }

    def estimate(
        self, names: str | Sequence[str], metric: str, kind: str | None = None
    ) -> Estimate:
        """Return the mean of a metric with its standard error."""
        return Estimate.of(self.values(names, metric, kind))

    def difference(
        self,
        names: str | Sequence[str],
        other: str | Sequence[str],
        metric: str,
        kind: str | None = None,
    ) -> Estimate:
        """Return the mean of the first minus that of the second, paired by scene."""
        one, two = self.values(names, metric, kind), self.values(other, metric, kind)
        return Estimate.of({k: one[k] - two[k] for k in one})


def _listed(names: str | Sequence[str]) -> Sequence[str]:
    return (names,) if isinstance(names, str) else names


METRICS = (
    *(f"auc{t}" for t in (30, 15, 5, 3)),
    "auc30_directed",
    "rotation_median",
    "translation_median",
    "abs_rel",
    "delta_1.25",
    "work",
    "moved",
)


def by_metric(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the metrics that are measured, each as numbers by scene, rounded for the record."""
    return {
        metric: [round(float(cell[metric]), 4) for cell in cells]
        for metric in METRICS
        if all(cell.get(metric) is not None for cell in cells)
    }
