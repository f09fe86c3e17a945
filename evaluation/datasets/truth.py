"""Ground truth of a scene in the project's conventions, from any dataset."""

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
"""Returns z-depth (N,) at pixels (N, 2) of the upright photo, NaN where it is not known.

A function of pixels instead of an image, because some datasets store depth in another camera's
pixels, and because only the model's few pixels are sampled.
"""

Photo = Path | NDArray[np.uint8]


@dataclass(frozen=True)
class SceneRef:
    """Scene of a dataset, not loaded yet.

    Attributes:
        name: Stable name in results and tables, unique in the dataset.
        group: Name of the scenes whose pairs are pooled before groups are averaged (CO3D's
            categories); the dataset's name where it has no groups.
        key: The reader's own key of the scene; it is pickled to workers.
    """

    name: str
    group: str
    key: Any = None


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth of M views of one scene.

    Cameras are OpenCV's, extrinsics world to camera, pixels of the upright photo at full size with
    the centre of the top-left one at (0.5, 0.5): see docs/reference/conventions.md.

    Attributes:
        scene: Reference of the scene.
        images: M files, or arrays (h, w, 3) uint8.
        extrinsics: (M, 3, 4), finite.
        frames: (M,) index of each view in the dataset's sequence, along which RPE is measured.
        intrinsics: (M, 3, 3); None where the dataset has none.
        depth: M samplers of z-depth in the units of the extrinsics.
        points: (K, 3) scan of the scene in the world; without one, points come from `depth`.
        judged: Selects the predicted points that a scan can judge (DTU's observation mask).
        demanded: Selects the points of the scan that count for completeness (DTU: above the
            table).
        max_distance: Distance from which points count as unrelated, so that ICP ignores the pair.
        cut_distances: Leave such distances out of the means, too (DTU).
        dropped: Number of views left out because the dataset has no usable camera for them.
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
        """Return the views whose cameras can be inverted; the others are added to `dropped`."""
        good = np.isfinite(self.extrinsics).all(axis=(1, 2))
        if self.intrinsics is not None:
            good &= np.isfinite(self.intrinsics).all(axis=(1, 2))
            good &= (self.intrinsics[:, [0, 1], [0, 1]] != 0).all(axis=1)
        kept = self.select(np.flatnonzero(good))
        return replace(kept, dropped=self.dropped + int((~good).sum()))

    def select(self, views: NDArray[np.int64]) -> GroundTruth:
        """Return these views alone, in this order."""
        return replace(
            self,
            images=tuple(self.images[i] for i in views),
            extrinsics=self.extrinsics[views],
            frames=self.frames[views],
            intrinsics=None if self.intrinsics is None else self.intrinsics[views],
            depth=None if self.depth is None else tuple(self.depth[i] for i in views),
        )


class Dataset(Protocol):
    """Reader that lists its scenes cheaply and loads one at a time; picklable, for workers."""

    name: str

    def scenes(self) -> list[SceneRef]:
        """List all scenes in a stable order.

        Raises:
            CovisError: The folder is not this dataset, or is empty.
        """
        ...

    def settings(self) -> dict[str, Any]:
        """Return the settings that determine a scene's content besides its name, as JSON values."""
        ...

    def load(self, ref: SceneRef) -> GroundTruth:
        """Load all views of a scene.

        Raises:
            CovisError: A file is missing or damaged; the message names it.
        """
        ...


def sample_views(truth: GroundTruth, views: int, how: str = "random", seed: int = 0) -> GroundTruth:
    """Sample at most `views` of the views.

    Args:
        truth: Ground truth of a scene.
        views: Largest number of views; 0 takes all.
        how: `random` samples without replacement, in the order of the draw (the protocol of CO3D
            and RealEstate10K in PoseDiffusion and VGGT); `even` samples evenly along the sequence.
        seed: Seed of the draw. The scene's name is mixed in, so that a scene's sample does not
            depend on the other scenes evaluated.

    Raises:
        CovisError: There are fewer than two views, so there is no pair to judge.
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
    """Sampler of a z-depth image (h, w) in the photo's pixels; only positive depth is known."""

    depth: NDArray[Any]

    def __call__(self, pixels: Float64) -> Float64:
        """Return the nearest pixel's depth, because a mean across an edge is no surface."""
        height, width = self.depth.shape
        u, v = np.floor(np.asarray(pixels, np.float64)).astype(np.int64).T
        inside = (u >= 0) & (v >= 0) & (u < width) & (v < height)
        out = np.full(len(u), np.nan)
        out[inside] = self.depth[v[inside], u[inside]]
        with np.errstate(invalid="ignore"):
            out[~(np.isfinite(out) & (out > 0))] = np.nan
        return out
