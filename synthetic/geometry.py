"""Intersection of rays with boxes, spheres and cylinders, in closed form."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from covis.synthetic.textures import Array

# Turns the smallest difference of two distances in a scene into a step from 0 to beyond 1.
_STEEP = 1e20
# Bound of misses, so that products with _STEEP are in the range of float32.
_MOST_MISS = 1e-6

# Coordinates x, y and z, one array each: a coordinate of all rays lies together in memory.
Vectors = tuple[Array, Array, Array]


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

    def radius(self) -> npt.NDArray[np.float64]:
        """Return the radius (K,) of a sphere around each primitive; the room's is infinite."""
        box = np.linalg.norm(self.half, axis=1)
        tube = np.linalg.norm(self.half[:, :2], axis=1)
        radius = np.where(self.shape == Shape.SPHERE, self.half[:, 0], box)
        radius = np.where(self.shape == Shape.CYLINDER, tube, radius)
        return np.where(self.shape == Shape.ROOM, np.inf, radius)


@dataclass(frozen=True)
class Hits:
    """
    First surface on each of N rays.

    Attributes:
        distance: (N,) distance in units of the ray's direction.
        primitive: (N,) int64 index of the primitive.
        normal: x, y and z (N,) of the unit normal, facing the ray's origin.
        face: (N,) int64 index of the face, 0 to 5.
        u: (N,) surface coordinate in metres, with `v`.
        v: (N,) surface coordinate in metres.
    """

    distance: Array
    primitive: Array
    normal: Vectors
    face: Array
    u: Array
    v: Array


@dataclass(frozen=True)
class Group:
    """
    K primitives of one shape, in the namespace of the rays, to be intersected together.

    Attributes:
        shape: Shape of all.
        turned: True if they are rotated about y.
        index: (K, 1) indices of the primitives in the scene, in the precision of the rays.
        centre: x, y and z (K, 1) of the centres.
        half: x, y and z (K, 1) of the half extents.
        cosine: (K, 1) cosine of the rotation.
        sine: (K, 1) sine of the rotation.
    """

    shape: Shape
    turned: bool
    index: Array
    centre: list[Array]
    half: list[Array]
    cosine: Array
    sine: Array


class Groups:
    """
    Primitives of a scene, grouped by shape, and boxes by whether they are turned.

    Args:
        xp: Array namespace.
        primitives: Primitives of the scene, on the host.
        dtype: Precision of the rays.
        device: Device of the rays.
    """

    def __init__(self, xp: Any, primitives: Primitives, dtype: Any, device: Any) -> None:
        self.xp, self.device = xp, device
        turn = np.stack([np.cos(primitives.yaw), np.sin(primitives.yaw)], axis=1)
        table = np.concatenate([primitives.centre, primitives.half, turn], axis=1)
        self._groups = []
        for shape in Shape:
            for turned in (False, True):
                mask = (primitives.shape == shape) & ((primitives.yaw != 0.0) == turned)
                where = np.flatnonzero(mask)
                if len(where):
                    rows = xp.asarray(table[where], dtype=dtype, device=device)
                    index = xp.asarray(where[:, None].astype(float), dtype=dtype, device=device)
                    self._groups.append((shape, turned, where, index, rows))

    def select(self, chosen: npt.NDArray[np.bool_] | None = None) -> list[Group]:
        """Return the groups, or of each group the primitives that are `chosen` (K,)."""
        xp, out = self.xp, []
        for shape, turned, where, *tables in self._groups:
            at = np.arange(len(where)) if chosen is None else np.flatnonzero(chosen[where])
            if len(at) == 0:
                continue
            index, rows = tables
            if len(at) < len(where):
                some = xp.asarray(at, device=self.device)
                index, rows = (xp.take(a, some, axis=0) for a in tables)
            columns = [rows[:, i : i + 1] for i in range(8)]
            out.append(
                Group(shape, turned, index, columns[:3], columns[3:6], columns[6], columns[7])
            )
        return out


def nearest(
    xp: Any, groups: list[Group], origin: Vectors, direction: Vectors
) -> tuple[Array, Array]:
    """
    Find the first primitive on each ray, and the distance to it.

    All primitives of a group are intersected at once, in arrays of shape (K, N): a few operations
    on large arrays instead of many on small ones. Comparisons are written as sums and clipping,
    which the vector units of every CPU have, while torch selects by masks element by element.

    Args:
        xp: Array namespace.
        groups: Primitives that the rays may meet, from `Groups.select`.
        origin: Coordinates (N,) of the rays' origins, or (1,) if they have one origin.
        direction: Coordinates (N,) of the rays' directions, of any length.

    Returns:
        Distance (N,) in units of `direction`, above 1000 without a hit; primitive (N,) int64.
    """
    inverse = [1.0 / (d + 1e-12) for d in direction]
    best: Array = None
    index: Array = None
    for group in groups:
        t = _distance(xp, group, origin, direction, inverse)
        low = xp.min(t, axis=0)
        # 1 for the nearest primitive, else 0; of several at one distance, the last counts.
        t = xp.clip((low - t) * _STEEP + 1.0, 0.0, 1.0) * group.index
        first = xp.max(t, axis=0)
        if best is None:
            best, index = low, first
        else:
            closer = xp.clip((best - low) * _STEEP, 0.0, 1.0)
            index = index + closer * (first - index)
            best = xp.minimum(best, low)
    return best, xp.astype(index, xp.int64)


def surface(
    xp: Any,
    tables: dict[str, Array],
    distance: Array,
    index: Array,
    origin: Vectors,
    direction: Vectors,
) -> Hits:
    """
    Return the surface that each ray meets: its normal, face and texture coordinates.

    Args:
        xp: Array namespace.
        tables: `Primitives.arrays()` in the namespace of the rays.
        distance: (N,) distances from `nearest`.
        index: (N,) primitives from `nearest`.
        origin: Coordinates (N,) of the rays' origins, or (1,) if they have one origin.
        direction: Coordinates (N,) of the rays' directions.
    """
    shape = xp.take(tables["shape"], index, axis=0)
    cosine = xp.take(xp.cos(tables["yaw"]), index, axis=0)
    sine = xp.take(xp.sin(tables["yaw"]), index, axis=0)
    x, y, z = (
        o + distance * d - xp.take(tables["centre"][:, a], index, axis=0)
        for a, (o, d) in enumerate(zip(origin, direction, strict=True))
    )
    x, z = cosine * x - sine * z, sine * x + cosine * z
    hx, hy, hz = (xp.take(tables["half"][:, a], index, axis=0) for a in range(3))

    # A box: the face is the axis on which the point is (relatively) farthest out.
    rx, ry, rz = xp.abs(x) / hx, xp.abs(y) / hy, xp.abs(z) / hz
    is_x = (rx >= ry) & (rx >= rz)
    is_y = ~is_x & (ry >= rz)
    around = xp.sqrt(x * x + z * z)
    tube = shape == Shape.CYLINDER
    ball = shape == Shape.SPHERE
    side = tube & (around / hx >= ry)
    is_x, is_y = is_x & ~tube, xp.where(tube, ~side, is_y)
    curved = ball | side
    one = xp.ones_like(x)
    sign = xp.where(xp.where(is_x, x, xp.where(is_y, y, z)) > 0.0, one, -one)
    # Outward normal: of a curved surface the direction from the axis or the centre.
    height = xp.where(ball, y, 0.0)
    scale = 1.0 / xp.sqrt(x * x + height * height + z * z + 1e-30)
    flat = [xp.where(is_x, sign, 0.0), xp.where(is_y, sign, 0.0)]
    flat.append(xp.where(is_x | is_y, 0.0, sign))
    n = [xp.where(curved, a * scale, b) for a, b in zip((x, height, z), flat, strict=True)]
    n[0], n[2] = cosine * n[0] + sine * n[2], cosine * n[2] - sine * n[0]
    along = n[0] * direction[0] + n[1] * direction[1] + n[2] * direction[2]
    outward = xp.where(along > 0.0, -one, one)
    normal = (n[0] * outward, n[1] * outward, n[2] * outward)

    u = xp.where(curved, xp.atan2(x, z) * hx, xp.where(is_x, z, x))
    v = xp.where(is_y & ~curved, z, xp.where(ball, xp.atan2(y, around) * hx, y))
    axis = xp.where(is_x, 0, 2 - xp.astype(is_y, xp.int64))
    face = xp.where(curved, 0, 2 * axis + xp.astype(sign > 0.0, xp.int64))
    return Hits(distance, index, normal, face, u, v)


def _distance(
    xp: Any, group: Group, origin: Vectors, direction: Vectors, inverse: list[Array]
) -> Array:
    """Return the distances (K, N) along rays to the primitives of a group; huge for a miss."""
    d = list(direction)
    o = [a - c for a, c in zip(origin, group.centre, strict=True)]
    if group.turned:
        cosine, sine = group.cosine, group.sine
        o[0], o[2] = cosine * o[0] - sine * o[2], sine * o[0] + cosine * o[2]
        d[0], d[2] = cosine * d[0] - sine * d[2], sine * d[0] + cosine * d[2]
        inverse = [1.0 / (d[0] + 1e-12), inverse[1], 1.0 / (d[2] + 1e-12)]
    if group.shape in (Shape.BOX, Shape.ROOM):
        enter, leave = _slabs(xp, group, o, inverse, (0, 1, 2))
        if group.shape is Shape.ROOM:
            return leave
        miss = xp.maximum(enter - leave, -enter)
    elif group.shape is Shape.SPHERE:
        enter, leave, miss = _quadric(xp, group, o, d, (0, 1, 2))
        miss = xp.maximum(miss, -enter)
    else:
        enter, leave, miss = _quadric(xp, group, o, d, (0, 2))
        cap_enter, cap_leave = _slabs(xp, group, o, inverse, (1,))
        enter = xp.maximum(enter, cap_enter)
        miss = xp.maximum(xp.maximum(miss, enter - xp.minimum(leave, cap_leave)), -enter)
    return enter + xp.clip(miss, 0.0, _MOST_MISS) * _STEEP


def _slabs(
    xp: Any, group: Group, o: list[Array], inverse: list[Array], axes: tuple[int, ...]
) -> tuple[Array, Array]:
    """Return the distances at which rays enter and leave the slabs |x_a| <= half_a."""
    enter: Array = None
    leave: Array = None
    for a in axes:
        middle, reach = -o[a] * inverse[a], group.half[a] * xp.abs(inverse[a])
        near, far = middle - reach, middle + reach
        enter = near if enter is None else xp.maximum(enter, near)
        leave = far if leave is None else xp.minimum(leave, far)
    return enter, leave


def _quadric(
    xp: Any, group: Group, o: list[Array], d: list[Array], axes: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """
    Return the distances at which rays enter and leave sum_a x_a^2 <= radius^2.

    The third array is positive for a miss.
    """
    inverse = 1.0 / (sum(d[k] * d[k] for k in axes) + 1e-18)
    b = sum(o[k] * d[k] for k in axes) * inverse
    c = sum(o[k] * o[k] for k in axes) - group.half[0] * group.half[0]
    discriminant = b * b - c * inverse
    root = xp.sqrt(xp.clip(discriminant, 0.0, None))
    return -b - root, root - b, -discriminant
