"""What a dataset knows of a scene, in the project's conventions, whatever its own are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import user_error
from covis.evaluation.metrics.clouds import Mask
from covis.evaluation.metrics.pose import Float64

DepthSampler = Callable[[Float64], Float64]
"""Pixels (N, 2) of the upright photo -> z-depth (N,), NaN where it is not known.

A function of pixels rather than an image, because some datasets keep depth in another camera's
pixels, and because only the model's few pixels are asked for.
"""

Photo = Path | NDArray[np.uint8]


@dataclass(frozen=True)
class SceneRef:
    """A scene of a dataset, not loaded yet.

    Attributes:
        name: unique in the dataset, stable, as results and tables show it.
        group: scenes whose pairs are pooled before groups are averaged (CO3D's categories); the
            dataset's name where it has none.
        key: what the reader needs to find it; pickled to workers.
    """

    name: str
    group: str
    key: Any = None


@dataclass(frozen=True)
class GroundTruth:
    """M views of one scene with what is known of them.

    Cameras are OpenCV's, extrinsics world to camera, pixels of the upright photo at full size with
    the centre of the top-left one at (0.5, 0.5): see docs/reference/conventions.md.

    Attributes:
        scene: its reference.
        images: M files, or arrays (h, w, 3) uint8.
        extrinsics: (M, 3, 4), finite.
        frames: (M,) place of each view in the dataset's sequence; RPE goes along it.
        intrinsics: (M, 3, 3), where the dataset has them.
        depth: M samplers of z-depth in the units of the extrinsics.
        points: (K, 3) a scan of the scene in the world; without one, points come from `depth`.
        judged: which predicted points a scan can judge (DTU's observation mask).
        demanded: which points of the scan a prediction should have (DTU: above the table).
        max_distance: from where on points count as unrelated: ICP ignores such pairs.
        cut_distances: whether such distances are also left out of the means (DTU).
        dropped: views left out because the dataset has no usable camera for them.
    """

    scene: SceneRef
    images: tuple[Photo, ...]
    extrinsics: Float64
    frames: NDArray[np.int64]
    intrinsics: Float64 | None = None
    depth: tuple[DepthSampler, ...] | None = None
    points: Float64 | None = None
    judged: Mask | None = None
    demanded: Mask | None = None
    max_distance: float | None = None
    cut_distances: bool = False
    dropped: int = 0

    def __post_init__(self) -> None:
        for name in ("extrinsics", "frames", "intrinsics", "depth"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.images):
                raise user_error(
                    f"has {len(value)} {name} for {len(self.images)} photos",
                    where=self.scene.name,
                    hint="get the dataset anew",
                )

    def __len__(self) -> int:
        return len(self.images)

    def sound(self) -> GroundTruth:
        """Without the views whose cameras cannot be inverted; how many is added to `dropped`."""
        good = np.isfinite(self.extrinsics).all(axis=(1, 2))
        if self.intrinsics is not None:
            good &= np.isfinite(self.intrinsics).all(axis=(1, 2))
            good &= (self.intrinsics[:, [0, 1], [0, 1]] != 0).all(axis=1)
        kept = self.select(np.flatnonzero(good))
        return replace(kept, dropped=self.dropped + int((~good).sum()))

    def select(self, views: NDArray[np.int64]) -> GroundTruth:
        """These views alone, in this order."""
        return replace(
            self,
            images=tuple(self.images[i] for i in views),
            extrinsics=self.extrinsics[views],
            frames=self.frames[views],
            intrinsics=None if self.intrinsics is None else self.intrinsics[views],
            depth=None if self.depth is None else tuple(self.depth[i] for i in views),
        )


class Dataset(Protocol):
    """A reader: lists its scenes cheaply, loads one at a time; picklable, for workers."""

    name: str

    def scenes(self) -> list[SceneRef]:
        """All scenes, in a stable order.

        Raises:
            CovisError: the folder is not this dataset, or nothing is in it.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """What decides a scene's content beside its name, as JSON values."""
        ...

    def load(self, ref: SceneRef) -> GroundTruth:
        """All views of a scene.

        Raises:
            CovisError: naming the file that is missing or damaged.
        """
        ...


def sample_views(truth: GroundTruth, views: int, how: str = "random", seed: int = 0) -> GroundTruth:
    """At most `views` of the views.

    Args:
        truth: of a scene.
        views: how many; 0 takes all.
        how: `random`: drawn without replacement, in the order drawn (the protocol of CO3D and
            RealEstate10K in PoseDiffusion and VGGT); `even`: evenly spaced along the sequence.
        seed: of the draw; the scene's name is mixed in, so that a scene's draw does not depend on
            which others are evaluated.

    Raises:
        CovisError: fewer than two views are there: there is no pair to judge.
    """
    truth = truth.sound()
    if len(truth) < 2:
        lost = f" ({truth.dropped} without a usable camera)" if truth.dropped else ""
        raise user_error(
            f"has {len(truth)} usable view{'s' * (len(truth) != 1)}{lost}, and a pair needs two",
            where=truth.scene.name,
            hint="leave the scene out, or get its photos",
        )
    if views == 0 or (how == "even" and views >= len(truth)):
        return truth
    if how == "even":
        index = np.round(np.linspace(0, len(truth) - 1, views)).astype(np.int64)
        return truth.select(np.argsort(truth.frames, kind="stable")[index])
    digest = hashlib.sha256(truth.scene.name.encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
    return truth.select(rng.permutation(len(truth))[:views].astype(np.int64))


@dataclass(frozen=True)
class DepthArray:
    """Samples a z-depth image (h, w) in the photo's own pixels; what is not positive is unknown."""

    depth: NDArray[Any]

    def __call__(self, pixels: Float64) -> Float64:
        """The nearest pixel's depth: a mean across an edge would be a surface that is not there."""
        height, width = self.depth.shape
        u, v = np.floor(np.asarray(pixels, np.float64)).astype(np.int64).T
        inside = (u >= 0) & (v >= 0) & (u < width) & (v < height)
        out = np.full(len(u), np.nan)
        out[inside] = self.depth[v[inside], u[inside]]
        with np.errstate(invalid="ignore"):
            out[~(np.isfinite(out) & (out > 0))] = np.nan
        return out
