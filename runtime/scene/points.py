"""Coloured points of a scene with the pixel of each, computed view by view."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import user_error
from covis.runtime.scene import geometry
from covis.runtime.scene.geometry import Float64
from covis.runtime.scene.percentiles import percentiles

if TYPE_CHECKING:
    from covis.runtime.scene.scene import Scene

PointSource = Literal["depth", "points"]
_FINITE = 1e38  # below the largest float32, which files contain


class PointSamples(NamedTuple):
    """N points of the views, with the pixel of each.

    Attributes:
        xyz: (N, 3) float64 in the world.
        rgb: (N, 3) uint8; mid-grey where the scene has no images.
        conf: (N,) float32 confidence; 1 where the model has none.
        view: (N,) index of the view.
        pixel: (N, 2) model pixel coordinates (u, v) of the pixel's centre.
    """

    xyz: Float64
    rgb: NDArray[np.uint8]
    conf: NDArray[np.float32]
    view: NDArray[np.int64]
    pixel: Float64

    def take(self, index: NDArray[np.int64]) -> PointSamples:
        """Return the points of these indices."""
        return PointSamples(
            self.xyz[index], self.rgb[index], self.conf[index], self.view[index], self.pixel[index]
        )

    def thin(self, limit: int) -> PointSamples:
        """Return at most `limit` of the points, evenly sampled."""
        if len(self.xyz) <= limit:
            return self
        return self.take(_even(len(self.xyz), limit))


@dataclass(frozen=True)
class PointStream:
    """The valid, finite points of a scene, view by view in row order; only the views asked for.

    Attributes:
        scene: Scene of M views.
        threshold: Smallest confidence of a point.
        stride: Step between the rows and between the columns that are taken.
        source: `depth`, unprojected, or the model's own `points`.
    """

    scene: Scene
    threshold: float = -np.inf
    stride: int = 1
    source: PointSource = "depth"

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Number of points of each view (M,)."""
        return np.array([len(self._pixels(view)[0]) for view in self.scene.walk()], np.int64)

    def view(self, view: int, chosen: NDArray[np.int64] | None = None) -> PointSamples:
        """Return the points of one view.

        Args:
            view: Index of the view.
            chosen: Indices of the points to return, among those of the view; all by default.
        """
        v, u = self._pixels(view)
        if chosen is not None:
            v, u = v[chosen], u[chosen]
        conf = self.scene.confidence(self.source)
        return PointSamples(
            self._xyz(view, v, u),
            self._colours(view, v, u),
            np.ones(len(u), np.float32) if conf is None else conf[view, v, u].astype(np.float32),
            np.full(len(u), view, np.int64),
            _centres(v, u),
        )

    def all(self) -> PointSamples:
        """Return all points, which for many views take much memory: 55 bytes each."""
        return joined(self.view(view) for view in self.scene.walk())

    def thin(self, limit: int) -> PointSamples:
        """Return at most `limit` of the points, evenly sampled; the others are never computed."""
        total = int(self.counts.sum())
        if total <= limit:
            return self.all()
        return self.take(_even(total, limit))

    def take(self, index: NDArray[np.int64]) -> PointSamples:
        """Return the points of these ascending indices into all points."""
        ends = np.cumsum(self.counts)
        cuts = np.searchsorted(index, ends)
        own = np.split(index, cuts[:-1])
        starts = ends - self.counts
        return joined(self.view(i, own[i] - starts[i]) for i in self.scene.walk() if len(own[i]))

    @cached_property
    def _usable(self) -> NDArray[np.bool_]:
        """Views whose points can be computed: (M,)."""
        if self.source == "points":
            return np.ones(len(self.scene), bool)
        return self.scene.usable_cameras()

    def _pixels(self, view: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows and columns of the pixels that have a point."""
        scene, step = self.scene, self.stride
        keep = np.zeros(scene.image_size, bool)
        keep[::step, ::step] = scene.valid[view, ::step, ::step] & self._usable[view]
        conf = scene.confidence(self.source)
        if conf is not None:
            keep &= conf[view] >= self.threshold
        if self.source == "depth":
            with np.errstate(invalid="ignore"):
                keep &= np.isfinite(scene.depth[view]) & (scene.depth[view] > 0)
        v, u = np.nonzero(keep)
        if len(u) and self._farthest(view, v, u) > _FINITE:
            with np.errstate(over="ignore"):
                near = np.isfinite(self._xyz(view, v, u).astype(np.float32)).all(axis=-1)
            v, u = v[near], u[near]
        return v, u

    def _farthest(self, view: int, v: NDArray[np.int64], u: NDArray[np.int64]) -> float:
        """Return a bound of the points' coordinates: infinite if it cannot be known cheaply."""
        if self.source == "points":
            return np.inf
        ray = np.linalg.norm(np.linalg.inv(self.scene.intrinsics[view].astype(np.float64)))
        corner = np.linalg.norm([*self.scene.image_size, 1])
        deepest = float(self.scene.depth[view, v, u].max())
        offset = np.linalg.norm(self.scene.extrinsics[view, :, 3])
        return float(deepest * ray * corner + offset)

    def _xyz(self, view: int, v: NDArray[np.int64], u: NDArray[np.int64]) -> Float64:
        scene = self.scene
        if not len(u):
            return np.empty((0, 3))
        if self.source == "points" and scene.points is not None:
            own: Float64 = scene.points[view, v, u].astype(np.float64)
            return own
        # Only the selected pixels are unprojected, because all of them would take gigabytes.
        depth, K, E = scene.depth[view, v, u], scene.intrinsics[view], scene.extrinsics[view]
        return geometry.unproject(_centres(v, u), depth, K, E)

    def _colours(self, view: int, v: NDArray[np.int64], u: NDArray[np.int64]) -> NDArray[np.uint8]:
        images = self.scene.images
        if images is None:
            return np.full((len(u), 3), 128, np.uint8)
        rgb: NDArray[Any] = images[view][:, v, u].T
        if rgb.dtype == np.uint8:
            return rgb
        bright: NDArray[np.uint8] = np.rint(np.clip(rgb, 0.0, 1.0) * 255.0).astype(np.uint8)
        return bright


def point_stream(
    scene: Scene,
    min_conf: float | None = None,
    percentile: float | None = None,
    stride: int = 1,
    source: PointSource = "depth",
) -> PointStream:
    """Select the points of a scene; the arguments and errors are those of `Scene.point_samples`."""
    if source not in get_args(PointSource):
        raise user_error(f"{source!r} is unknown", where="source", hint='"depth" or "points"')
    if source == "points" and scene.points is None:
        raise user_error("this scene has no points of its own", hint='use source="depth"')
    if stride < 1:
        raise user_error(f"{stride} is less than 1", where="stride")
    threshold = -np.inf if min_conf is None else float(min_conf)
    if np.isnan(threshold):
        raise user_error("is not a number", where="min_conf", hint="give a number")
    if percentile is not None:
        if not 0.0 <= percentile <= 100.0:
            raise user_error(f"{percentile} is not in [0, 100]", where="--conf-percentile")
        threshold = max(threshold, _quantile(scene, percentile, stride, source))
    return PointStream(scene, threshold, stride, source)


def joined(samples: Iterable[PointSamples]) -> PointSamples:
    """Return the points of several views as one set, in their order."""
    empty = PointSamples(
        np.empty((0, 3)),
        np.empty((0, 3), np.uint8),
        np.empty(0, np.float32),
        np.empty(0, np.int64),
        np.empty((0, 2)),
    )
    columns = zip(empty, *samples, strict=True)
    return PointSamples(*(np.concatenate(column) for column in columns))


def _quantile(scene: Scene, percentile: float, stride: int, source: PointSource) -> float:
    """Return the confidence below which this percentage of the valid pixels lies."""
    conf = scene.confidence(source)
    if conf is None or percentile == 0:
        return -np.inf

    def values(view: int) -> NDArray[Any]:
        grid = conf[view, ::stride, ::stride]
        chosen: NDArray[Any] = grid[scene.valid[view, ::stride, ::stride] & np.isfinite(grid)]
        return chosen

    found = percentiles(scene, values, percentile)
    return -np.inf if found is None else float(found)


def _even(count: int, limit: int) -> NDArray[np.int64]:
    return np.linspace(0, count - 1, limit).astype(np.int64)


def _centres(v: NDArray[np.int64], u: NDArray[np.int64]) -> Float64:
    return np.stack([u, v], axis=-1).astype(np.float64) + 0.5
