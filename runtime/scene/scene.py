"""Result of a run: cameras, depth and points of M views, in one convention for all models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import user_error
from covis.runtime.scene import geometry
from covis.runtime.scene.geometry import Float64, Floats
from covis.runtime.scene.points import PointSamples, PointSource, point_stream
from covis.runtime.scene.view_files import release, rewritten

_BY_VIEW = ("paths", "sources", "stamps", "mask_paths")  # tuples with one entry for each view


@dataclass(frozen=True)
class SparsityReport:
    """Share of global attention that a run computed.

    Attributes:
        layers: Indices of the global layers that were not dense.
        kept_blocks: (layers, heads) share of blocks computed, in [0, 1].
        relative_blocks: Number of kept view pairs over M^2, mean over these layers; 1 for a
            selector without view pairs.
        kept_pairs: Number of view pairs that at least one of these layers computes, ordered,
            self-pairs included.
        attention_work: Share of dense global attention that was computed, over all layers.
        selector: Selector of the run; with `auto`, the one that it chose.
        reason: Why `auto` chose it; "" if it was asked for.
        schedule: Regime of each global layer, such as "0-1:self, 2-8:anchors=10, 9-23:anchors=25".
        attention_mass: (layers, heads) share of dense attention's softmax mass that falls on kept
            blocks, measured on a sample of the queries; None where it was not measured.
    """

    layers: tuple[int, ...]
    kept_blocks: NDArray[np.float32]
    relative_blocks: float
    kept_pairs: int
    attention_work: float
    selector: str
    reason: str = ""
    schedule: str = ""
    attention_mass: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Cameras, depth and points of M views of one scene.

    World frame and axes are OpenCV's (x right, y down, z forward); where the model has a reference
    view, the world is that view's camera frame. Pixel coordinates put the centre of the top-left
    pixel at (0.5, 0.5). See docs/reference/conventions.md.

    Attributes:
        names: M different names of the photos.
        extrinsics: (M, 3, 4) world to camera.
        intrinsics: (M, 3, 3) in pixels of the model's H x W image.
        intrinsics_original: (M, 3, 3) in pixels of the upright original photo.
        image_size: Size (H, W) of the model's images.
        original_sizes: (M, 2) height and width of the upright original photos.
        images: (M, 3, H, W) RGB, uint8 or float in [0, 1].
        depth: (M, H, W) z-depth.
        depth_conf: (M, H, W) confidence, larger is surer; its scale depends on the model.
        points: (M, H, W, 3) in the world, from the model's own point head.
        points_conf: (M, H, W) confidence of `points`.
        valid: (M, H, W) mask of pixels that come from a photo and that the model does not mask.
        similarity: (M, M) cosine similarity of the views in [-1, 1].
        pair_levels: (R, M, M) int8 maps of view pairs, one for each regime of the layers: 0
            skipped, 1 low precision, 2 full precision. Row i lists what view i attends to.
        layer_map: (L,) index of the map of each global layer.
        anchors: (n,) indices of the anchor views, in the order in which they were chosen; None
            without anchors.
        sparsity: Share of global attention that was computed.
        metric: True if lengths are in metres; otherwise the scale is arbitrary.
        paths: File of each photo; None for a photo that is not from a file.
        shared_cameras: (M,) number of the camera of each view, where views share intrinsics; None
            where each view has a camera of its own.
        sources: Photo of each view as it was given (file, array, PIL image or video frame), from
            which the writers decode it again at full size; None where the photos are unknown.
        stamps: Size and time of the last change of each photo's file, when it was decoded, by which
            the writers notice a change; None for a photo that is not from a file.
        mask_paths: Mask file of each photo; None for a photo without one.
        from_parts: True if the scene was joined from parts of a collection. Its large arrays are
            memory-mapped, and it has many points for one place of a surface, of which the writers
            keep the most confident one (see `covis.runtime.scene.fuse`).
        provenance: Model, digests, options and versions, as JSON values.
        notes: Lines about the result that the user should read, such as doubts about a camera.

    Raises:
        CovisError: The shapes do not match, or views that share a camera differ in it.
    """

    names: tuple[str, ...]
    extrinsics: Floats
    intrinsics: Floats
    intrinsics_original: Floats
    image_size: tuple[int, int]
    original_sizes: NDArray[np.integer[Any]]
    depth: Floats
    valid: NDArray[np.bool_]
    depth_conf: Floats | None = None
    points: Floats | None = None
    points_conf: Floats | None = None
    images: NDArray[Any] | None = None
    similarity: Floats | None = None
    pair_levels: NDArray[np.int8] | None = None
    layer_map: NDArray[np.int64] | None = None
    anchors: NDArray[np.int64] | None = None
    sparsity: SparsityReport | None = None
    metric: bool = False
    paths: tuple[Path | None, ...] | None = None
    sources: tuple[Any, ...] | None = None
    stamps: tuple[tuple[int, int] | None, ...] | None = None
    mask_paths: tuple[Path | None, ...] | None = None
    shared_cameras: NDArray[np.int64] | None = None
    from_parts: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        M, (H, W) = len(self.names), self.image_size
        if not M:
            raise user_error("a scene needs at least one view")
        if len(set(self.names)) < M:
            raise user_error("two views have the same name", hint="make the names differ")
        for name, shape in _shapes(M, H, W).items():
            value = getattr(self, name)
            if value is not None and np.shape(value) != shape:
                raise user_error(f"has shape {np.shape(value)}, not {shape}", where=f"Scene.{name}")
        maps = self.pair_levels
        if maps is not None and (maps.ndim != 3 or maps.shape[1:] != (M, M) or not len(maps)):
            raise user_error(
                f"has shape {maps.shape}, not (R, {M}, {M})", where="Scene.pair_levels"
            )
        for name in _BY_VIEW:
            value = getattr(self, name)
            if value is not None and len(value) != M:
                raise user_error(f"has {len(value)} entries, not {M}", where=f"Scene.{name}")
        if self.valid.dtype != np.bool_:
            raise user_error(f"is {self.valid.dtype}, not bool", where="Scene.valid")
        _, first, group = np.unique(self.camera_groups(), return_index=True, return_inverse=True)
        for name in ("intrinsics", "intrinsics_original", "original_sizes"):
            value = getattr(self, name)
            if not np.array_equal(value, value[first[group]], equal_nan=True):
                raise user_error(
                    f"puts views together that differ in {name}", where="Scene.shared_cameras"
                )

    def __len__(self) -> int:
        return len(self.names)

    def walk(self) -> Iterator[int]:
        """Yield the indices of the views, and call `release` after each."""
        for view in range(len(self)):
            yield view
            self.release()

    def release(self) -> None:
        """Give back the memory that reading memory-mapped arrays has taken; others stay."""
        release(self.images, self.depth, self.depth_conf, self.valid)

    def camera_centers(self) -> Float64:
        """Return camera positions (M, 3) in the world."""
        return geometry.camera_centers(self.extrinsics)

    def camera_groups(self) -> NDArray[np.int64]:
        """Return the number (M,) of the camera of each view, counted from 0 without gaps.

        Views of one number have the same intrinsics and the same original size. Unless the scene
        was given shared cameras, each view has a number of its own.
        """
        if self.shared_cameras is None:
            return np.arange(len(self), dtype=np.int64)
        _, number = np.unique(self.shared_cameras, return_inverse=True)
        return number.astype(np.int64)

    def points_from_depth(self) -> NDArray[np.float32]:
        """Return world points (M, H, W, 3) of all pixels, from depth and cameras.

        The points of a view without a usable camera are NaN.
        """
        H, W = self.image_size
        pixels = geometry.pixel_centers(H, W).reshape(-1, 2)
        out = np.full((len(self), H, W, 3), np.nan, np.float32)
        for i in np.nonzero(self.usable_cameras())[0]:
            world = geometry.unproject(
                pixels, self.depth[i].reshape(-1), self.intrinsics[i], self.extrinsics[i]
            )
            out[i] = world.reshape(H, W, 3)
        return out

    def usable_cameras(self) -> NDArray[np.bool_]:
        """Return the mask (M,) of views whose cameras are finite, with positive focal lengths.

        A field of view of 180 degrees or more, which a model may return, is no pinhole camera's.
        """
        focal = self.intrinsics[:, [0, 1], [0, 1]]
        finite = np.ones(len(self), bool)
        for array in (self.extrinsics, self.intrinsics, self.intrinsics_original):
            finite &= np.isfinite(array).all(axis=(1, 2))
        usable: NDArray[np.bool_] = finite & (focal > 0).all(axis=1)
        return usable

    def confidence(self, source: PointSource = "depth") -> Floats | None:
        """Return the confidence (M, H, W) of the points of `source`."""
        return self.depth_conf if source == "depth" else self.points_conf

    def point_cloud(
        self,
        min_conf: float | None = None,
        percentile: float | None = None,
        stride: int = 1,
        source: PointSource = "depth",
    ) -> tuple[Float64, NDArray[np.uint8], NDArray[np.float32]]:
        """Return points (N, 3) in the world, colours uint8 (N, 3) and confidences (N,).

        The arguments are those of `point_samples`.
        """
        samples = self.point_samples(min_conf, percentile, stride, source)
        return samples.xyz, samples.rgb, samples.conf

    def point_samples(
        self,
        min_conf: float | None = None,
        percentile: float | None = None,
        stride: int = 1,
        source: PointSource = "depth",
    ) -> PointSamples:
        """Return the valid, finite points of the scene, view by view in row order.

        Args:
            min_conf: Smallest confidence of a point.
            percentile: Percentage of the valid pixels to leave out, the least confident first.
            stride: Step between the rows and between the columns that are taken.
            source: `depth`, unprojected, so that points lie on their pixels' rays, or the model's
                own `points`.

        Raises:
            CovisError: The model has no `points`, or an option is out of range.
        """
        return point_stream(self, min_conf, percentile, stride, source).all()

    def select(self, views: NDArray[np.int64]) -> Scene:
        """Return the scene of these views alone, in this order."""
        shapes = _shapes(len(self), *self.image_size)
        changed: dict[str, Any] = {"names": tuple(self.names[i] for i in views)}
        for name in _BY_VIEW:
            if (value := getattr(self, name)) is not None:
                changed[name] = tuple(value[i] for i in views)
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in shapes and value is not None:
                changed[f.name] = _chosen(value, views, pairs=f.name == "similarity")
        if self.pair_levels is not None:
            changed["pair_levels"] = self.pair_levels[:, views][:, :, views]
        if self.anchors is not None:
            place = {view: i for i, view in enumerate(views.tolist())}
            kept = [place[view] for view in self.anchors.tolist() if view in place]
            changed["anchors"] = np.array(kept, np.int64)
        return replace(self, **changed)

    @property
    def pair_level(self) -> NDArray[np.int8] | None:
        """Map (M, M) of view pairs that all sparse layers share; None if they have several."""
        if self.pair_levels is None or self.layer_map is None:
            return None
        used = [self.pair_levels[r] for r in np.unique(self.layer_map)]
        sparse = [level for level in used if (level != 2).any()]
        return (sparse or used)[0] if len(sparse) <= 1 else None


def _chosen(value: NDArray[Any], views: NDArray[np.int64], *, pairs: bool) -> NDArray[Any]:
    if pairs:
        return value[np.ix_(views, views)]
    if isinstance(value, np.memmap):
        return rewritten(value, len(views), lambda index: value[views[index]])
    return value[views]


def _shapes(M: int, H: int, W: int) -> dict[str, tuple[int, ...]]:
    return {
        "extrinsics": (M, 3, 4),
        "intrinsics": (M, 3, 3),
        "intrinsics_original": (M, 3, 3),
        "original_sizes": (M, 2),
        "images": (M, 3, H, W),
        "depth": (M, H, W),
        "depth_conf": (M, H, W),
        "points": (M, H, W, 3),
        "points_conf": (M, H, W),
        "valid": (M, H, W),
        "similarity": (M, M),
        "shared_cameras": (M,),
    }
