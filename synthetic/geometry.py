"""Intersection of rays with boxes, spheres and cylinders, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
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

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return what `surface` looks up, each (K,)."""
        out = {f"centre_{a}": self.centre[:, i] for i, a in enumerate("xyz")}
        out |= {f"half_{a}": self.half[:, i] for i, a in enumerate("xyz")}
        out |= {"cosine": np.cos(self.yaw), "sine": np.sin(self.yaw)}
        out["ball"] = (self.shape == Shape.SPHERE).astype(np.float64)
        out["tube"] = (self.shape == Shape.CYLINDER).astype(np.float64)
        return out

    def corners(self) -> npt.NDArray[np.float64]:
        """Return the corners (K, 8, 3) of the boxes around the primitives, in the world."""
        signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(8, 3)
        local = self.half[:, None] * signs
        c, s = np.cos(self.yaw)[:, None], np.sin(self.yaw)[:, None]
        x, z = c * local[..., 0] + s * local[..., 2], c * local[..., 2] - s * local[..., 0]
        return np.stack([x, local[..., 1], z], axis=-1) + self.centre[:, None]


@dataclass(frozen=True)
class Hits:
    """
    First surface on each of N rays. Masks are numbers, 1 for yes and 0 for no.

    Attributes:
        distance: (N,) distance in units of the ray's direction.
        primitive: (N,) int64 index of the primitive.
        normal: x, y and z (N,) of the unit normal, facing the ray's origin.
        local: x, y and z (N,) of the point in the frame of the primitive.
        radius: (N,) half extent of the primitive along x.
        faces: Three masks (N,): the face is flat and lies across x, y or z.
        ball: (N,) mask of spheres.
        tube: (N,) mask of the curved sides of cylinders.
    """

    distance: Array
    primitive: Array
    normal: Vectors
    local: Vectors
    radius: Array
    faces: Vectors
    ball: Array
    tube: Array

    def coordinates(self, xp: Any) -> tuple[Array, Array, Array]:
        """Return the number (N,) int64 of the face, 0 to 5, and u and v (N,) in metres on it."""
        (x, y, z), (fx, fy, fz) = self.local, self.faces
        curved = self.ball + self.tube
        u = curved * xp.atan2(x, z) * self.radius + fx * z + (fy + fz) * x
        latitude = xp.atan2(y, xp.sqrt(x * x + z * z)) * self.radius
        v = (fx + fz + self.tube) * y + fy * z + self.ball * latitude
        side = xp.sign(fx * x + fy * y + fz * z)
        face = fx * 0.5 + fy * 2.5 + fz * 4.5 + 0.5 * side
        return xp.astype(face + 0.25, xp.int64), u, v


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

    Attributes:
        all: Groups that together are all primitives.
        single: Groups of one, (K,), in the order of the primitives.
    """

    def __init__(self, xp: Any, primitives: Primitives, dtype: Any, device: Any) -> None:
        turn = np.stack([np.cos(primitives.yaw), np.sin(primitives.yaw)], axis=1)
        number = np.arange(len(turn))[:, None].astype(np.float64)
        table = np.concatenate([number, primitives.centre, primitives.half, turn], axis=1)
        self.all = []
        single: dict[int, Group] = {}
        for shape in Shape:
            for turned in (False, True):
                mask = (primitives.shape == shape) & ((primitives.yaw != 0.0) == turned)
                where = np.flatnonzero(mask)
                if len(where):
                    rows = xp.asarray(table[where], dtype=dtype, device=device)
                    self.all.append(_group(shape, turned, rows))
                    for i, k in enumerate(where):
                        single[int(k)] = _group(shape, turned, rows[i : i + 1])
        self.single = [single[k] for k in range(len(turn))]


def _group(shape: Shape, turned: bool, rows: Array) -> Group:
    """Return the group of rows of the table in `Groups`."""
    columns = [rows[:, i : i + 1] for i in range(9)]
    return Group(shape, turned, columns[0], columns[1:4], columns[4:7], columns[7], columns[8])


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
        groups: Primitives that the rays may meet, a list of `Groups`.
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


def nearest_in_view(
    xp: Any,
    groups: Groups,
    rectangles: list[tuple[int, slice, slice]],
    origin: Vectors,
    direction: Vectors,
) -> tuple[Array, Array]:
    """
    Find the first primitive on each ray of one view, as `nearest`, with less work.

    Every primitive is intersected only with the rays of its rectangle in the image. That are many
    operations on small arrays, which is the fast way on a CPU, and the slow one on a GPU.

    Args:
        xp: Array namespace.
        groups: Primitives of the scene; number 0 is the enclosing room.
        rectangles: Primitives that may be in sight, each with its rows and columns.
        origin: Coordinates (1,) of the camera.
        direction: Coordinates (H, W) of the rays' directions.

    Returns:
        Distance (H * W,) in units of `direction`; primitive (H * W,) int64.
    """
    inverse = [1.0 / (d + 1e-12) for d in direction]
    best = _distance(xp, groups.single[0], origin, direction, inverse)
    index = xp.zeros_like(best)
    for k, rows, columns in rectangles:
        at = (rows, columns)
        dx, dy, dz = (d[at] for d in direction)
        t = _distance(xp, groups.single[k], origin, (dx, dy, dz), [i[at] for i in inverse])
        closer = xp.clip((best[at] - t) * _STEEP, 0.0, 1.0)
        index[at] += closer * (float(k) - index[at])
        best[at] = xp.minimum(best[at], t)
    return xp.reshape(best, (-1,)), xp.astype(xp.reshape(index, (-1,)), xp.int64)


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
        tables: `Primitives.columns()` in the namespace of the rays.
        distance: (N,) distances from `nearest`.
        index: (N,) primitives from `nearest`.
        origin: Coordinates (N,) of the rays' origins, or (1,) if they have one origin.
        direction: Coordinates (N,) of the rays' directions.
    """
    cosine, sine, hx, hy, hz, ball, tube = (
        xp.take(tables[k], index, axis=0)
        for k in ("cosine", "sine", "half_x", "half_y", "half_z", "ball", "tube")
    )
    x, y, z = (
        o + distance * d - xp.take(tables[k], index, axis=0)
        for k, o, d in zip(("centre_x", "centre_y", "centre_z"), origin, direction, strict=True)
    )
    x, z = cosine * x - sine * z, sine * x + cosine * z

    # A box: the face is the axis on which the point is (relatively) farthest out.
    rx, ry, rz = xp.abs(x) / hx, xp.abs(y) / hy, xp.abs(z) / hz
    around = x * x + z * z
    tube_side = tube * _step(xp, xp.sqrt(around) / hx - ry)
    flat = 1.0 - ball - tube_side
    fx = flat * (1.0 - tube) * _step(xp, rx - xp.maximum(ry, rz))
    fy = (flat - fx) * xp.maximum(tube, _step(xp, ry - rz))
    fz = flat - fx - fy
    # Outward normal: of a curved surface the direction from the axis or the centre.
    height = ball * y
    scale = (ball + tube_side) / xp.sqrt(around + height * height + 1e-30)
    nx, ny, nz = scale * x + fx * x, scale * height + fy * y, scale * z + fz * z
    length = 1.0 / xp.sqrt(nx * nx + ny * ny + nz * nz + 1e-30)
    nx, nz = cosine * nx + sine * nz, cosine * nz - sine * nx
    along = nx * direction[0] + ny * direction[1] + nz * direction[2]
    length = -length * xp.sign(along)
    normal = (nx * length, ny * length, nz * length)
    return Hits(distance, index, normal, (x, y, z), hx, (fx, fy, fz), ball, tube_side)


def _step(xp: Any, x: Array) -> Array:
    """Return 1 where x is at least 0, else 0; without a mask, see `nearest`."""
    return xp.clip(x * _STEEP + 1.0, 0.0, 1.0)


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
