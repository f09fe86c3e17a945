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
from covis.synthetic.geometry import Hits, intersect, nearest
from covis.synthetic.scenes import Lights, SceneSpec, World, build
from covis.synthetic.textures import Array, albedo

# Rays per pass: small enough for the caches of a CPU; a GPU takes all at once.
_CPU_CHUNK = 1 << 15
# Largest distance, relative to depth, of a visible point behind the surface at its pixel.
_OCCLUSION_TOLERANCE = 0.01


@dataclass(frozen=True)
class RenderedScene:
    """
    M views with their ground truth, in arrays of the namespace that rendered them.

    Attributes:
        images: (M, 3, H, W) float32 in [0, 1].
        depth: (M, H, W) float64 z-depth in metres, at pixel centres.
        points: (M, H, W, 3) float64 points in the world.
        normals: (M, H, W, 3) float64 unit normals in the world, facing the camera.
        intrinsics: (M, 3, 3) float64 in pixels; the centre of the top-left pixel is (0.5, 0.5).
        extrinsics: (M, 3, 4) float64 world to camera, OpenCV axes.
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

    Raises:
        CovisError: A size or the supersampling is not positive.
    """
    if min(height, width, supersample) < 1:
        raise user_error("sizes and supersampling must be positive", where=f"{height} x {width}")
    world = build(scene) if isinstance(scene, SceneSpec) else scene
    tracer = _Tracer(xp, device, world, shadows)
    intrinsics = cameras.intrinsics(height, width)
    views = [
        tracer.view(cameras.extrinsics[i], intrinsics[i], height, width, supersample)
        for i in range(len(cameras.fov_y))
    ]
    images, depth, points, normals = (tracer.xp.stack(list(a)) for a in zip(*views, strict=True))
    k, e = tracer.array(intrinsics), tracer.array(cameras.extrinsics)
    return RenderedScene(images, depth, points, normals, k, e)


class _Tracer:
    """Ray tracer of one scene, with the scene's tables on the device."""

    def __init__(self, xp: Any, device: Any, world: World, shadows: bool) -> None:
        self.xp = array_api_compat.array_namespace(xp.asarray(0.0))
        self.device, self.world, self.shadows = device, world, shadows
        self.primitives = {k: self.array(v) for k, v in world.primitives.arrays().items()}
        self.materials = {k: self.array(v) for k, v in world.materials.arrays().items()}
        lights = world.lights
        self.lights = Lights(
            *(
                self.array(a)
                for a in (
                    lights.ambient,
                    lights.sun_direction,
                    lights.sun,
                    lights.position,
                    lights.power,
                )
            )
        )

    def array(self, value: npt.NDArray[Any]) -> Array:
        return self.xp.asarray(value, device=self.device)

    def view(
        self,
        extrinsics: npt.NDArray[np.float64],
        intrinsics: npt.NDArray[np.float64],
        height: int,
        width: int,
        supersample: int,
    ) -> tuple[Array, Array, Array, Array]:
        """Render one camera: image (3, H, W), depth (H, W), points and normals (H, W, 3)."""
        xp = self.xp
        directions = self._rays(extrinsics, intrinsics, height, width, 1)
        origin = self.array(-extrinsics[:, :3].T @ extrinsics[:, 3])
        colour, depth, normals = self._trace(origin, directions, shaded=supersample == 1)
        points = origin + depth[:, None] * directions
        if supersample > 1:
            fine = self._rays(extrinsics, intrinsics, height, width, supersample)
            colour, _, _ = self._trace(origin, fine)
            s = supersample
            colour = xp.mean(xp.reshape(colour, (height, s, width, s, 3)), axis=(1, 3))
        image = xp.permute_dims(xp.reshape(colour, (height, width, 3)), (2, 0, 1))
        return (
            xp.astype(image, xp.float32),
            xp.reshape(depth, (height, width)),
            xp.reshape(points, (height, width, 3)),
            xp.reshape(normals, (height, width, 3)),
        )

    def _rays(
        self,
        extrinsics: npt.NDArray[np.float64],
        intrinsics: npt.NDArray[np.float64],
        height: int,
        width: int,
        s: int,
    ) -> Array:
        """Return world directions (H*s * W*s, 3) with unit camera z, so distance is z-depth."""
        xp = self.xp
        x = (self.array(np.arange(width * s) + 0.5) / s - intrinsics[0, 2]) / intrinsics[0, 0]
        y = (self.array(np.arange(height * s) + 0.5) / s - intrinsics[1, 2]) / intrinsics[1, 1]
        x, y = xp.broadcast_arrays(x[None, :], y[:, None])
        local = xp.stack([x, y, xp.ones_like(x)], axis=-1)
        return xp.reshape(local, (-1, 3)) @ self.array(np.ascontiguousarray(extrinsics[:, :3]))

    def _trace(
        self, origin: Array, directions: Array, shaded: bool = True
    ) -> tuple[Array, Array, Array]:
        """
        Return colour (N, 3), distance (N,) and normal (N, 3) along rays from one point.

        Unshaded colours are placeholders.
        """
        xp = self.xp
        on_cpu = str(array_api_compat.device(directions)) == "cpu"
        chunk = _CPU_CHUNK if on_cpu else directions.shape[0]
        parts = []
        for i in range(0, directions.shape[0], chunk):
            d = directions[i : i + chunk]
            o = xp.broadcast_to(origin, d.shape)
            hits = intersect(xp, self.world.primitives, self.primitives, o, d)
            colour = self._shade(hits, o, d) if shaded else hits.normal
            parts.append((colour, hits.distance, hits.normal))
        colour, distance, normal = (xp.concat(list(p)) for p in zip(*parts, strict=True))
        return colour, distance, normal

    def _shade(self, hits: Hits, o: Array, d: Array) -> Array:
        """Shade by Lambert's law for every lamp; (N, 3) in [0, 1]."""
        xp, lights = self.xp, self.lights
        material = self.primitives["material"][hits.primitive, hits.face]
        # The six faces of one material must not repeat each other.
        colour = albedo(xp, self.materials, material, hits.u + 7.31 * hits.face, hits.v)
        point = o + hits.distance[:, None] * d
        facing = xp.clip(hits.normal @ lights.sun_direction, 0.0, None)
        if self.shadows:
            facing = facing * self._lit(point + 1e-4 * hits.normal)
        light = lights.ambient + facing[:, None] * lights.sun
        for k in range(lights.position.shape[0]):
            to_lamp = lights.position[k] - point
            square = xp.sum(to_lamp**2, axis=-1) + 0.3  # lamps have a size
            cosine = xp.clip(xp.sum(hits.normal * to_lamp, axis=-1), 0.0, None) / xp.sqrt(square)
            light = light + (cosine / square)[:, None] * lights.power[k]
        # Images are encoded for display, like those of a camera.
        return xp.clip(colour * light, 0.0, 1.0) ** (1 / 2.2)

    def _lit(self, points: Array) -> Array:
        """Return 1 where no object (the enclosing room aside) hides the distant lamp, else 0.35."""
        xp = self.xp
        direction = xp.broadcast_to(self.lights.sun_direction, points.shape)
        _, first = nearest(xp, self.world.primitives, points, direction)
        return xp.where(first == 0, 1.0, 0.35)


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
