"""Render synthetic scenes: images, depth, points and true co-visibility."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import array_api_compat
import numpy as np
import numpy.typing as npt

from covis.engines.errors import user_error
from covis.synthetic.cameras import Cameras
from covis.synthetic.covisibility import covisibility
from covis.synthetic.geometry import Groups, Hits, Vectors, nearest, nearest_in_view, surface
from covis.synthetic.lighting import illumination
from covis.synthetic.rectangles import rectangles
from covis.synthetic.scenes import SceneSpec, World, build
from covis.synthetic.textures import Array, albedo

# A CPU traces one view at a time. A GPU takes as many views at once as give this many pairs of ray
# and primitive, and therefore launches few kernels.
_DEVICE_PAIRS = 1 << 27
# Shadow rays at a time on a CPU, which meet all primitives: small enough for its caches.
_CPU_SHADOW_RAYS = 1 << 12


@dataclass(frozen=True)
class RenderedScene:
    """
    M views with their ground truth, in arrays of the namespace that rendered them.

    All arrays but the images have the precision that `render` was asked for.

    Attributes:
        images: (M, 3, H, W) float32 in [0, 1].
        depth: (M, H, W) z-depth in metres, at pixel centres.
        points: (M, H, W, 3) points in the world.
        normals: (M, H, W, 3) unit normals in the world, facing the camera.
        intrinsics: (M, 3, 3) in pixels; the centre of the top-left pixel is (0.5, 0.5).
        extrinsics: (M, 3, 4) world to camera, OpenCV axes.
    """

    images: Array
    depth: Array
    points: Array
    normals: Array
    intrinsics: Array
    extrinsics: Array

    @cached_property
    def covisibility(self) -> Array:
        """Return the share (M, M), float64, of view i's pixels that view j sees; 1 for i = j."""
        return covisibility(self.depth, self.points, self.normals, self.intrinsics, self.extrinsics)


def render(
    scene: SceneSpec | World,
    cameras: Cameras,
    height: int,
    width: int,
    *,
    xp: Any = np,
    device: Any = None,
    supersample: int = 1,
    shadows: bool = True,
    dtype: Any = None,
) -> RenderedScene:
    """
    Render a synthetic scene.

    Args:
        scene: Scene or its specification.
        cameras: M cameras.
        height: Height H in pixels.
        width: Width W in pixels.
        xp: Numpy, torch, or any namespace that array_api_compat supports.
        device: Device of the arrays; by default that of the namespace.
        supersample: Colour rays per pixel and axis; depth and points are always at pixel centres.
        shadows: Render the shadows of the distant lamp, with a second ray per pixel.
        dtype: Precision of rays and ground truth, `xp.float64` (default) or `xp.float32`. The
            scene is the same; only surfaces within rounding of an edge may differ.

    Raises:
        CovisError: A size or the supersampling is not positive.
    """
    if min(height, width, supersample) < 1:
        raise user_error("sizes and supersampling must be positive", where=f"{height} x {width}")
    world = build(scene) if isinstance(scene, SceneSpec) else scene
    return _Tracer(xp, device, world, shadows, dtype).render(cameras, height, width, supersample)


class _Tracer:
    """Ray tracer of one scene, with the scene's tables on the device."""

    def __init__(self, xp: Any, device: Any, world: World, shadows: bool, dtype: Any) -> None:
        self.xp = array_api_compat.array_namespace(xp.asarray(0.0))
        self.device, self.world, self.shadows = device, world, shadows
        self.dtype = self.xp.float64 if dtype is None else dtype
        self.surfaces = {k: self.array(v) for k, v in world.primitives.columns().items()}
        self.face_materials = self.array(world.primitives.material.reshape(-1))
        self.materials = {k: self.array(v) for k, v in world.materials.tables().items()}
        self.groups = Groups(self.xp, world.primitives, self.dtype, device)

    def array(self, value: npt.NDArray[Any]) -> Array:
        """Copy an array to the device, numbers in the precision of the rays."""
        kind = self.dtype if value.dtype.kind == "f" else None
        return self.xp.asarray(np.ascontiguousarray(value), dtype=kind, device=self.device)

    def render(self, cameras: Cameras, height: int, width: int, supersample: int) -> RenderedScene:
        """Trace rays through pixel centres for the geometry, and finer ones for colour."""
        xp, count = self.xp, len(cameras.fov_y)
        depth, *vectors = (self._empty(count, height, width) for _ in range(10))
        channels, points, normals = vectors[:3], vectors[3:6], vectors[6:]
        for views in self._passes(count, height * width):
            shape = depth[views].shape
            origin, direction, hits = self._trace(cameras[views], height, width)
            depth[views] = xp.reshape(hits.distance, shape)
            for a in range(3):
                point = origin[a] + hits.distance * direction[a]
                points[a][views] = xp.reshape(point, shape)
                normals[a][views] = xp.reshape(hits.normal[a], shape)
            if supersample == 1:
                for a, colour in enumerate(self._shade(hits, origin, direction)):
                    channels[a][views] = xp.reshape(colour, shape)
        if supersample > 1:
            self._colour(cameras, height, width, supersample, channels)
        # Images are encoded for display, like those of a camera.
        images = xp.clip(xp.stack(channels, axis=1), 0.0, 1.0) ** (1 / 2.2)
        return RenderedScene(
            xp.astype(images, xp.float32),
            depth,
            xp.stack(points, axis=-1),
            xp.stack(normals, axis=-1),
            self.array(cameras.intrinsics(height, width)),
            self.array(cameras.extrinsics),
        )

    def _colour(
        self, cameras: Cameras, height: int, width: int, s: int, channels: list[Array]
    ) -> None:
        """Fill the channels with the mean radiance of s x s rays for each pixel."""
        xp = self.xp
        for views in self._passes(len(cameras.fov_y), height * width * s * s):
            origin, direction, hits = self._trace(cameras[views], height * s, width * s)
            for a, colour in enumerate(self._shade(hits, origin, direction)):
                fine = xp.reshape(colour, (-1, height, s, width, s))
                parts = [fine[:, :, i, :, j] for i in range(s) for j in range(s)]
                channels[a][views] = sum(parts[1:], parts[0]) / (s * s)

    def _on_cpu(self) -> bool:
        return str(array_api_compat.device(self.face_materials)) == "cpu"

    def _empty(self, *shape: int) -> Array:
        return self.xp.zeros(shape, dtype=self.dtype, device=self.device)

    def _passes(self, views: int, rays: int) -> list[slice]:
        """Group views of so many rays each: one at a time on a CPU, else as memory allows."""
        group = 1 if self._on_cpu() else max(1, _DEVICE_PAIRS // (rays * len(self.groups.single)))
        return [slice(i, min(i + group, views)) for i in range(0, views, group)]

    def _trace(self, cameras: Cameras, height: int, width: int) -> tuple[Vectors, Vectors, Hits]:
        """Trace all rays of some views; directions have unit camera z: distance is z-depth."""
        xp = self.xp
        e, k = cameras.extrinsics, cameras.intrinsics(height, width)
        x = (np.arange(width) + 0.5 - k[:, 0, 2, None]) / k[:, 0, 0, None]
        y = (np.arange(height) + 0.5 - k[:, 1, 2, None]) / k[:, 1, 1, None]
        eye = -np.einsum("mji,mj->mi", e[:, :, :3], e[:, :, 3])
        origin, direction = [], []
        for a in range(3):
            across = self.array(x * e[:, 0, a, None])
            down = self.array(y * e[:, 1, a, None] + e[:, 2, a, None])
            direction.append(across[:, None, :] + down[:, :, None])
            o = self.array(eye[:, a])
            if len(eye) > 1:
                o = xp.reshape(xp.broadcast_to(o[:, None, None], direction[-1].shape), (-1,))
            origin.append(o)
        start = (origin[0], origin[1], origin[2])
        dx, dy, dz = (xp.reshape(d, (-1,)) for d in direction)
        if self._on_cpu():
            view = (direction[0][0], direction[1][0], direction[2][0])
            where = rectangles(self.world.primitives, cameras, height, width)
            found = nearest_in_view(xp, self.groups, where, start, view)
        else:
            found = nearest(xp, self.groups.all, start, (dx, dy, dz))
        return start, (dx, dy, dz), surface(xp, self.surfaces, *found, start, (dx, dy, dz))

    def _shade(self, hits: Hits, origin: Vectors, direction: Vectors) -> list[Array]:
        """Return the radiance of surfaces: red, green and blue (N,)."""
        xp = self.xp
        face, u, v = hits.coordinates(xp)
        material = xp.take(self.face_materials, 6 * hits.primitive + face, axis=0)
        # Faces of one material must not repeat each other.
        colour = albedo(xp, self.materials, material, u + 7.31 * xp.astype(face, self.dtype), v)
        x, y, z = (o + hits.distance * d for o, d in zip(origin, direction, strict=True))
        sunlit = self._sunlit((x, y, z), hits.normal) if self.shadows else None
        light = illumination(xp, self.world, (x, y, z), hits.normal, sunlit)
        return [c * value for c, value in zip(colour, light, strict=True)]

    def _sunlit(self, point: Vectors, normal: Vectors) -> Array:
        """Return 1 where no object (the enclosing room aside) hides the distant lamp, else 0.35."""
        xp, sun = self.xp, self.world.lights.sun_direction
        lit = []
        towards = tuple(self.array(np.full(1, float(a))) for a in sun)
        size = _CPU_SHADOW_RAYS if self._on_cpu() else point[0].shape[0]
        for i in range(0, point[0].shape[0], size):
            part = slice(i, i + size)
            x, y, z = (p[part] + 1e-4 * n[part] for p, n in zip(point, normal, strict=True))
            dx, dy, dz = (xp.broadcast_to(a, x.shape) for a in towards)
            _, first = nearest(xp, self.groups.all, (x, y, z), (dx, dy, dz))
            lit.append(0.35 + 0.65 * xp.astype(first == 0, self.dtype))
        return xp.concat(lit)
