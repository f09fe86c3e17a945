"""Render synthetic scenes: images, depth, points and true co-visibility."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import array_api_compat
import numpy as np
import numpy.typing as npt

from covis.engines.errors import user_error
from covis.synthetic.cameras import Cameras
from covis.synthetic.geometry import Groups, Hits, Vectors, nearest, surface
from covis.synthetic.scenes import SceneSpec, World, build
from covis.synthetic.textures import Array, albedo

# A CPU traces one view at a time, in blocks of so many rays a side, because few primitives are in
# sight of a small block. A GPU takes as many views at once as give this many pairs of ray and
# primitive, and therefore launches few kernels.
_CPU_SIDE = 64
_DEVICE_PAIRS = 1 << 27
# Metres from a wall, the floor or the ceiling within which less light arrives.
_CORNER = 0.4
# Largest distance, relative to depth, of a visible point behind the surface at its pixel.
_OCCLUSION_TOLERANCE = 0.01


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
        self.primitives = {k: self.array(v) for k, v in world.primitives.arrays().items()}
        self.materials = {k: self.array(v) for k, v in world.materials.arrays().items()}
        self.groups = Groups(self.xp, world.primitives, self.dtype, device)
        self.radius = world.primitives.radius()

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
        return str(array_api_compat.device(self.primitives["half"])) == "cpu"

    def _empty(self, *shape: int) -> Array:
        return self.xp.zeros(shape, dtype=self.dtype, device=self.device)

    def _passes(self, views: int, rays: int) -> list[slice]:
        """Group views of so many rays each: one at a time on a CPU, else as memory allows."""
        group = 1 if self._on_cpu() else max(1, _DEVICE_PAIRS // (rays * len(self.radius)))
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
        # Nearly square blocks: few primitives are in sight of each.
        side = _CPU_SIDE if self._on_cpu() else max(height, width)
        distance = xp.empty_like(direction[0])
        index = xp.empty_like(distance, dtype=xp.int64)
        for top, bottom in _blocks(height, side):
            for left, right in _blocks(width, side):
                block = (slice(None), slice(top, bottom), slice(left, right))
                dx, dy, dz = (xp.reshape(d[block], (-1,)) for d in direction)
                seen = self._in_sight(e, eye, x[:, [left, right - 1]], y[:, [top, bottom - 1]])
                t, first = nearest(xp, self.groups.select(seen), start, (dx, dy, dz))
                shape = distance[block].shape
                distance[block], index[block] = xp.reshape(t, shape), xp.reshape(first, shape)
        dx, dy, dz = (xp.reshape(d, (-1,)) for d in direction)
        flat = xp.reshape(distance, (-1,)), xp.reshape(index, (-1,))
        return start, (dx, dy, dz), surface(xp, self.primitives, *flat, start, (dx, dy, dz))

    def _in_sight(
        self,
        extrinsics: npt.NDArray[np.float64],
        eye: npt.NDArray[np.float64],
        x: npt.NDArray[np.float64],
        y: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.bool_]:
        """
        Return which primitives (K,) have spheres that meet the cone around a block of rays.

        Args:
            extrinsics: (M, 3, 4) world to camera.
            eye: (M, 3) positions of the cameras.
            x: (M, 2) first and last x of the directions, at unit z.
            y: (M, 2) first and last y.
        """
        ones = np.ones(len(x))
        corners = np.stack(
            [np.stack([x[:, i], y[:, j], ones], axis=-1) for i in (0, 1) for j in (0, 1)], axis=1
        )
        corners /= np.linalg.norm(corners, axis=-1, keepdims=True)
        axis = corners.mean(axis=1)
        axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
        widest = np.arccos(np.clip(np.einsum("mca,ma->mc", corners, axis), -1, 1)).max(axis=1)
        axis = np.einsum("mab,ma->mb", extrinsics[:, :, :3], axis)
        towards = self.world.primitives.centre - eye[:, None]
        distance = np.maximum(np.linalg.norm(towards, axis=-1), 1e-9)
        angle = np.arccos(np.clip(np.einsum("mka,ma->mk", towards, axis) / distance, -1, 1))
        # From within its sphere a primitive is in sight in every direction.
        outside = self.radius < distance
        extent = np.arcsin(np.where(outside, self.radius, 0.0) / distance)
        seen = ~outside | (angle <= extent + widest[:, None] + 1e-6)
        return np.asarray(seen.any(axis=0))

    def _shade(self, hits: Hits, origin: Vectors, direction: Vectors) -> list[Array]:
        """Return the radiance by Lambert's law for every lamp: red, green and blue (N,)."""
        xp, lights = self.xp, self.world.lights
        table = xp.reshape(self.primitives["material"], (-1,))
        material = xp.take(table, 6 * hits.primitive + hits.face, axis=0)
        # Faces and primitives of one material must not repeat each other.
        u = hits.u + 7.31 * xp.astype(hits.face, self.dtype)
        colour = albedo(xp, self.materials, material, u, hits.v)
        point = [o + hits.distance * d for o, d in zip(origin, direction, strict=True)]
        n = hits.normal
        sun = [float(a) for a in lights.sun_direction]
        facing = xp.clip(n[0] * sun[0] + n[1] * sun[1] + n[2] * sun[2], 0.0, None)
        if self.shadows:
            facing = facing * self._lit([p + 1e-4 * a for p, a in zip(point, n, strict=True)])
        light = [facing * float(lights.sun[c]) + float(lights.ambient[c]) for c in range(3)]
        for position, power in zip(lights.position, lights.power, strict=True):
            x, y, z = (float(a) - p for a, p in zip(position, point, strict=True))
            square = x * x + y * y + z * z + 0.3  # lamps have a size
            cosine = xp.clip(n[0] * x + n[1] * y + n[2] * z, 0.0, None)
            falloff = cosine / (square * xp.sqrt(square))
            light = [value + falloff * float(p) for value, p in zip(light, power, strict=True)]
        open_air = self._openness(point, n)
        return [c * value * open_air for c, value in zip(colour, light, strict=True)]

    def _openness(self, point: list[Array], normal: Vectors) -> Array:
        """Return how little the corners of the room darken points (N,): 1 in the open."""
        xp, room = self.xp, self.world.primitives
        open_air: Array = 1.0
        for p, n, c, h in zip(point, normal, room.centre[0], room.half[0], strict=True):
            gap = float(h) - xp.abs(p - float(c))
            near = xp.clip(1.0 - gap * (1.0 / _CORNER), 0.0, 1.0)
            # A surface that faces along this axis is not in the corner, it is the wall.
            open_air = open_air * (1.0 - 0.45 * near * near * (1.0 - n * n))
        return open_air

    def _lit(self, points: list[Array]) -> Array:
        """Return 1 where no object (the enclosing room aside) hides the distant lamp, else 0.35."""
        xp = self.xp
        sun = self.array(self.world.lights.sun_direction)
        x, y, z = (xp.zeros_like(points[0]) + sun[a] for a in range(3))
        start = (points[0], points[1], points[2])
        _, first = nearest(xp, self.groups.select(), start, (x, y, z))
        return 0.35 + 0.65 * xp.astype(first == 0, self.dtype)


def _blocks(length: int, side: int) -> list[tuple[int, int]]:
    """Cut a length into nearly equal parts of at most `side`."""
    cuts = np.linspace(0, length, -(-length // side) + 1).round().astype(int)
    return [(int(a), int(b)) for a, b in pairwise(cuts)]


def covisibility(
    depth: Array, points: Array, normals: Array, intrinsics: Array, extrinsics: Array
) -> Array:
    """
    Return the share of each view's pixels that each other view sees.

    A point of view i is seen by view j if it projects into j's image, in front of it, faces j, and
    is not behind the plane of the surface that j sees at that pixel (by more than 1 % of its
    depth). The plane instead of the depth, because neighbouring pixels of slanted surfaces differ
    much in depth, so that such surfaces would hide themselves.

    Args:
        depth: (M, H, W) z-depth.
        points: (M, H, W, 3) points in the world.
        normals: (M, H, W, 3) unit normals in the world, facing the cameras.
        intrinsics: (M, 3, 3) in pixels.
        extrinsics: (M, 3, 4) world to camera.

    Returns:
        (M, M) float64; row i, column j: share of view i's pixels.
    """
    xp = array_api_compat.array_namespace(depth)
    views, height, width = depth.shape
    flat, outward = xp.reshape(points, (-1, 3)), xp.reshape(normals, (-1, 3))
    columns = []
    for j in range(views):
        camera = flat @ extrinsics[j, :, :3].T + extrinsics[j, :, 3]
        z = camera[:, 2]
        in_front = z > 1e-6
        inverse = 1.0 / xp.where(in_front, z, 1.0)
        x = intrinsics[j, 0, 0] * camera[:, 0] * inverse + intrinsics[j, 0, 2]
        y = intrinsics[j, 1, 1] * camera[:, 1] * inverse + intrinsics[j, 1, 2]
        seen = in_front & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        (index,) = xp.nonzero(seen)
        column, row = xp.astype(x[index], xp.int64), xp.astype(y[index], xp.int64)
        eye = -extrinsics[j, :, :3].T @ extrinsics[j, :, 3]
        facing = xp.sum(outward[index] * (eye - flat[index]), axis=-1) > 0.0
        behind = xp.sum(normals[j][row, column] * (flat[index] - points[j][row, column]), axis=-1)
        seen[index] = facing & (behind > -_OCCLUSION_TOLERANCE * depth[j][row, column])
        columns.append(xp.mean(xp.reshape(xp.astype(seen, xp.float64), (views, -1)), axis=1))
    return xp.stack(columns, axis=1)
