"""Intersection of rays with boxes, spheres and cylinders, in closed form."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from covis.synthetic.textures import Array

_EPSILON = 1e-9


class Shape(IntEnum):
    """Kinds of primitive. `ROOM` is a box seen from inside."""

    BOX = 0
    ROOM = 1
    SPHERE = 2
    CYLINDER = 3


@dataclass(frozen=True)
class Primitives:
    """
    K primitives; world axes are OpenCV-like (y down), metres.

    Attributes:
        shape: (K,) `Shape`.
        centre: (K, 3) centres.
        half: (K, 3) half extents: of a sphere the radius three times, of a cylinder along y
            (radius, half height, radius).
        yaw: (K,) rotation about y in radians.
        material: (K, 6) material of each face (-x, +x, -y, +y, -z, +z); spheres use the first,
            cylinders the first for the side and the third and fourth for the caps.
    """

    shape: npt.NDArray[np.int64]
    centre: npt.NDArray[np.float64]
    half: npt.NDArray[np.float64]
    yaw: npt.NDArray[np.float64]
    material: npt.NDArray[np.int64]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True)
class Hits:
    """
    First surface on each of N rays.

    Attributes:
        distance: (N,) distance in units of the ray's direction; inf where there is no surface.
        primitive: (N,) int64 index of the primitive.
        normal: (N, 3) unit normal, facing the ray's origin.
        face: (N,) int64 index of the face, 0 to 5.
        u: (N,) surface coordinate in metres, with `v`.
        v: (N,) surface coordinate in metres.
    """

    distance: Array
    primitive: Array
    normal: Array
    face: Array
    u: Array
    v: Array


def nearest(
    xp: Any, primitives: Primitives, origin: Array, direction: Array
) -> tuple[Array, Array]:
    """
    Find the first primitive on each ray, and the distance to it.

    Args:
        xp: Array namespace.
        primitives: Primitives of the scene, on the host.
        origin: (N, 3) float64 origins.
        direction: (N, 3) float64 directions, of any length.

    Returns:
        Distance (N,) in units of `direction`, inf without a hit; primitive (N,) int64.
    """
    best = xp.full_like(direction[:, 0], float("inf"))
    index = xp.zeros_like(best, dtype=xp.int64)
    for k in range(len(primitives.shape)):
        o, d = _to_local(xp, primitives, k, origin, direction)
        t = _distance(xp, Shape(int(primitives.shape[k])), primitives.half[k], o, d)
        closer = t < best
        best = xp.where(closer, t, best)
        index = xp.where(closer, k, index)
    return best, index


def intersect(
    xp: Any, primitives: Primitives, tables: dict[str, Array], o: Array, d: Array
) -> Hits:
    """
    Find the first surface on each ray, with its normal and texture coordinates.

    Args:
        xp: Array namespace.
        primitives: Primitives of the scene, on the host.
        tables: `primitives.arrays()` in the namespace of the rays.
        o: (N, 3) ray origins.
        d: (N, 3) ray directions.
    """
    distance, index = nearest(xp, primitives, o, d)
    half = tables["half"][index]
    shape = tables["shape"][index]
    cosine, sine = xp.cos(tables["yaw"])[index], xp.sin(tables["yaw"])[index]
    far = xp.where(xp.isfinite(distance), distance, 0.0)
    p = o + far[:, None] * d - tables["centre"][index]
    p = xp.stack(
        [cosine * p[:, 0] - sine * p[:, 2], p[:, 1], sine * p[:, 0] + cosine * p[:, 2]], -1
    )

    # A box: the face is the axis on which the point is (relatively) farthest out.
    relative = xp.abs(p) / half
    is_x = (relative[:, 0] >= relative[:, 1]) & (relative[:, 0] >= relative[:, 2])
    is_y = ~is_x & (relative[:, 1] >= relative[:, 2])
    axis = xp.where(is_x, 0, xp.where(is_y, 1, 2))
    round_side = (shape == Shape.CYLINDER) & (
        xp.sqrt(p[:, 0] ** 2 + p[:, 2] ** 2) / half[:, 0] >= relative[:, 1]
    )
    axis = xp.where((shape == Shape.CYLINDER) & ~round_side, 1, axis)
    curved = (shape == Shape.SPHERE) | round_side
    sign = xp.sign(xp.where(axis == 0, p[:, 0], xp.where(axis == 1, p[:, 1], p[:, 2])))
    flat = xp.stack([sign * xp.astype(axis == a, xp.float64) for a in range(3)], -1)
    outward = xp.stack([p[:, 0], xp.where(round_side, 0.0, p[:, 1]), p[:, 2]], -1)
    outward = outward / xp.sqrt(xp.sum(outward**2, axis=-1) + 1e-300)[:, None]
    n = xp.where(curved[:, None], outward, flat)
    n = xp.stack(
        [cosine * n[:, 0] + sine * n[:, 2], n[:, 1], -sine * n[:, 0] + cosine * n[:, 2]], -1
    )
    towards = xp.sum(n * d, axis=-1) > 0.0
    n = xp.where(towards[:, None], -n, n)

    angle = xp.atan2(p[:, 0], p[:, 2]) * half[:, 0]
    latitude = xp.atan2(p[:, 1], xp.sqrt(p[:, 0] ** 2 + p[:, 2] ** 2)) * half[:, 0]
    u = xp.where(curved, angle, xp.where(axis == 0, p[:, 2], p[:, 0]))
    v = xp.where(axis == 1, p[:, 2], p[:, 1])
    v = xp.where(shape == Shape.SPHERE, latitude, v)
    face = xp.where(curved, 0, 2 * axis + xp.astype(sign > 0.0, xp.int64))
    return Hits(distance, index, n, face, u, v)


def _to_local(
    xp: Any, primitives: Primitives, k: int, origin: Array, direction: Array
) -> tuple[list[Array], list[Array]]:
    """Transform rays to the frame of primitive k, by coordinate."""
    cosine, sine = float(np.cos(primitives.yaw[k])), float(np.sin(primitives.yaw[k]))
    c = [float(x) for x in primitives.centre[k]]
    x, y, z = (origin[:, a] - c[a] for a in range(3))
    dx, dy, dz = (direction[:, a] for a in range(3))
    if sine == 0.0 and cosine == 1.0:
        return [x, y, z], [dx, dy, dz]
    return (
        [cosine * x - sine * z, y, sine * x + cosine * z],
        [cosine * dx - sine * dz, dy, sine * dx + cosine * dz],
    )


def _distance(
    xp: Any, shape: Shape, half: npt.NDArray[np.float64], o: list[Array], d: list[Array]
) -> Array:
    """Return the distance along local rays to one primitive; inf for a miss."""
    if shape in (Shape.BOX, Shape.ROOM):
        enter, leave = _slabs(xp, half, o, d, (0, 1, 2))
        t = leave if shape is Shape.ROOM else enter
    elif shape is Shape.SPHERE:
        enter, leave = _quadric(xp, float(half[0]), o, d, (0, 1, 2))
        t = enter
    else:
        tube_enter, tube_leave = _quadric(xp, float(half[0]), o, d, (0, 2))
        cap_enter, cap_leave = _slabs(xp, half, o, d, (1,))
        enter = xp.maximum(tube_enter, cap_enter)
        leave = xp.minimum(tube_leave, cap_leave)
        t = enter
    return xp.where((enter <= leave) & (t > _EPSILON), t, float("inf"))


def _slabs(
    xp: Any, half: npt.NDArray[np.float64], o: list[Array], d: list[Array], axes: tuple[int, ...]
) -> tuple[Array, Array]:
    """Return the distances at which rays enter and leave the slabs |x_a| <= half_a."""
    enter: Array = None
    leave: Array = None
    for a in axes:
        # No ray is exactly parallel: a tiny component gives a far intersection, never 0 / 0.
        inverse = 1.0 / xp.where(xp.abs(d[a]) < 1e-12, 1e-12, d[a])
        low, high = (-float(half[a]) - o[a]) * inverse, (float(half[a]) - o[a]) * inverse
        near, far = xp.minimum(low, high), xp.maximum(low, high)
        enter = near if enter is None else xp.maximum(enter, near)
        leave = far if leave is None else xp.minimum(leave, far)
    return enter, leave


def _quadric(
    xp: Any, radius: float, o: list[Array], d: list[Array], axes: tuple[int, ...]
) -> tuple[Array, Array]:
    """Return the distances at which rays enter and leave sum_a x_a^2 <= radius^2.

    A miss is (inf, -inf).
    """
    a = sum((d[k] * d[k] for k in axes), xp.zeros_like(d[0])) + 1e-18
    b = sum((o[k] * d[k] for k in axes), xp.zeros_like(d[0]))
    c = sum((o[k] * o[k] for k in axes), xp.zeros_like(d[0])) - radius * radius
    discriminant = b * b - a * c
    root = xp.sqrt(xp.clip(discriminant, 0.0, None))
    hit = discriminant >= 0.0
    return (
        xp.where(hit, (-b - root) / a, float("inf")),
        xp.where(hit, (-b + root) / a, -float("inf")),
    )
