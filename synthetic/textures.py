"""
Procedural textures evaluated at surface coordinates: masonry, grain and decals.

Everything is a pure function of (seed, u, v), computed with integer hashes that are equal in every
array library, so that a surface looks the same from every camera and in every backend. Hashes never
repeat over a surface: two places of one wall that look alike at the size of a patch of an image are
unlikely, although brick, planks and tiles look like what they are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

# Arrays of either backend; array_api_compat ships no types.
Array = Any

_TONES = 4  # colours in the palette of a material
_EDGES = ("edge_0", "edge_1")  # a wall has a skirting board, and perhaps panels above it
_STEEP = 1e20  # turns the smallest difference of two coordinates into a step from 0 to beyond 1


@dataclass(frozen=True)
class Materials:
    """
    K materials, one row each, in numpy on the host; the renderer copies them to the device.

    A surface is divided into rows of elements (bricks, planks, tiles, the spines of books). Each
    element takes a tone of the palette and a brightness of its own; between elements runs a joint.

    Attributes:
        seed: (K,) int32, start of every hash.
        length: (K,) metres from one element of a row to the next.
        height: (K,) metres from one row to the next.
        shift: (K,) largest displacement of a row along itself, as a share of `length`.
        split_u: (K,) 1 where every element is cut in two at a random place of its length, else 0.
        split_v: (K,) 1 where every element is cut in two at a random place of its height, else 0.
        joint: (K,) half the width of the joint in metres.
        vary: (K,) weight of each element's own brightness.
        grain: (K,) weight of the smooth variation of brightness.
        grain_u: (K,) metres of the coarsest smooth variation along u.
        grain_v: (K,) metres of the coarsest smooth variation along v.
        decals: (K,) share of the cells of size `decal_size` that have a decal: a framed picture,
            disc, ring or diamond of random place, size and colours.
        decal_size: (K,) metres.
        palette: (K, 4, 3) linear RGB of the elements, in [0, 1].
        line: (K, 3) linear RGB of the joints.
        edge: (K,) surface coordinate v from which, downwards, the material `below` is seen.
        below: (K,) int64 index of that material.
    """

    seed: npt.NDArray[np.int32]
    length: npt.NDArray[np.float64]
    height: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]
    split_u: npt.NDArray[np.float64]
    split_v: npt.NDArray[np.float64]
    joint: npt.NDArray[np.float64]
    vary: npt.NDArray[np.float64]
    grain: npt.NDArray[np.float64]
    grain_u: npt.NDArray[np.float64]
    grain_v: npt.NDArray[np.float64]
    decals: npt.NDArray[np.float64]
    decal_size: npt.NDArray[np.float64]
    palette: npt.NDArray[np.float64]
    line: npt.NDArray[np.float64]
    edge: npt.NDArray[np.float64]
    below: npt.NDArray[np.int64]

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        """
        Return what `albedo` looks up, each by material, or by material and part or tone.

        `part` (3 K,) is the material of the upper part, the part below it and the lowest one;
        `edge_0` and `edge_1` (K,) are the surface coordinates between them.
        """
        out = {f.name: getattr(self, f.name) for f in fields(self)}
        middle = self.below
        out["part"] = np.stack([np.arange(len(middle)), middle, middle[middle]], axis=1).reshape(-1)
        out["edge_0"] = self.edge
        out["edge_1"] = np.maximum(self.edge, self.edge[middle])
        for c, name in enumerate("rgb"):
            out[f"tone_{name}"] = self.palette[:, :, c].reshape(-1)
            out[f"line_{name}"] = self.line[:, c]
        for name in ("palette", "line", "edge", "below"):
            del out[name]
        return out


def albedo(
    xp: Any, materials: dict[str, Array], index: Array, u: Array, v: Array
) -> tuple[Array, Array, Array]:
    """
    Return the colour of N surface points.

    Args:
        xp: Array namespace.
        materials: `Materials.tables()` in that namespace, in the precision of the coordinates.
        index: (N,) int64 index of each point's material.
        u: (N,) surface coordinate in metres.
        v: (N,) surface coordinate in metres, downwards on walls.

    Returns:
        Red, green and blue (N,), in [0, 1], in the precision of the coordinates.
    """
    part = sum(_positive(xp, v - xp.take(materials[k], index, axis=0)) for k in _EDGES)
    index = xp.take(materials["part"], 3 * index + xp.astype(part, xp.int64), axis=0)
    seed = xp.take(materials["seed"], index, axis=0)
    tone, bright, joint = _masonry(xp, materials, index, seed, u, v)
    bright = bright + _grain(xp, materials, index, seed, u, v)
    element = index * _TONES + xp.astype(tone, xp.int64)
    colour = []
    for c in "rgb":
        value = xp.take(materials[f"tone_{c}"], element, axis=0)
        line = xp.take(materials[f"line_{c}"], index, axis=0)
        colour.append((value + joint * (line - value)) * bright)
    _paste_decals(xp, materials, index, seed, u, v, colour)
    red, green, blue = (xp.clip(c, 0.0, 1.0) for c in colour)
    return red, green, blue


def _hash(xp: Any, i: Array, j: Array, seed: Array) -> Array:
    """
    Hash a lattice point to 32 well-mixed bits, as int32.

    Products wrap around, as in every array library. Shifts copy the sign; the last one must not,
    because otherwise the highest bit would always be 0.
    """
    h = i * 0x2C1B3C6D + j * 0x297A2D39 + seed
    h = (h ^ (h >> 16)) * 0x2C1B3C6D
    h = (h ^ (h >> 13)) * 0x297A2D39
    return h ^ ((h >> 16) & 0xFFFF)


def _share(xp: Any, h: Array, shift: int, like: Array) -> Array:
    """Return eight bits of a hash as a number in [0, 1]."""
    return xp.astype((h >> shift) & 0xFF, like.dtype) * (1.0 / 255.0)


def _lattice(xp: Any, x: Array) -> tuple[Array, Array]:
    """Return the cell index (int32) and the position within the cell."""
    cell = xp.floor(x)
    return xp.astype(cell, xp.int32), x - cell


def _positive(xp: Any, x: Array) -> Array:
    """Return 1 where x is positive, else 0, as numbers: torch is slow with masks on a CPU."""
    return xp.clip(x * _STEEP, 0.0, 1.0)


def _masonry(
    xp: Any, materials: dict[str, Array], index: Array, seed: Array, u: Array, v: Array
) -> tuple[Array, Array, Array]:
    """Return each point's tone (int32, 0 to 3), brightness, and 1 where it lies in a joint."""
    length, height, shift, split_u, split_v, joint, vary = (
        xp.take(materials[k], index, axis=0)
        for k in ("length", "height", "shift", "split_u", "split_v", "joint", "vary")
    )
    row, y = _lattice(xp, v / height)
    moved = _share(xp, _hash(xp, row, row * 0, seed), 0, u)
    column, x = _lattice(xp, u / length + shift * moved)
    h = _hash(xp, column, row, seed + 17)
    # Cuts at 30 to 70 % of the element; without a cut the part is the whole.
    cut_u = split_u * (0.3 + 0.4 * _share(xp, h, 0, u))
    cut_v = split_v * (0.3 + 0.4 * _share(xp, h, 8, u))
    beyond_u, beyond_v = x - cut_u, y - cut_v
    part = _positive(xp, beyond_u) + 2.0 * _positive(xp, beyond_v)
    h = _hash(xp, xp.astype(part, xp.int32), h, seed)
    # Distance to the nearest edge of the part, in metres.
    x = xp.minimum(xp.minimum(x, 1.0 - x), xp.abs(beyond_u)) * length
    y = xp.minimum(xp.minimum(y, 1.0 - y), xp.abs(beyond_v)) * height
    bright = 1.0 + vary * (2.0 * _share(xp, h, 2, u) - 1.0)
    return h & (_TONES - 1), bright, _positive(xp, joint - xp.minimum(x, y))


def _grain(
    xp: Any, materials: dict[str, Array], index: Array, seed: Array, u: Array, v: Array
) -> Array:
    """Return smooth noise of two octaves, with mean 0 and the weight of the material."""
    u = u / xp.take(materials["grain_u"], index, axis=0)
    v = v / xp.take(materials["grain_v"], index, axis=0)
    # Not a whole ratio, so that the lattices of the octaves do not coincide.
    noise = _value_noise(xp, u, v, seed + 5) + 0.7 * _value_noise(xp, 2.83 * u, 2.83 * v, seed + 6)
    return xp.take(materials["grain"], index, axis=0) * noise


def _value_noise(xp: Any, u: Array, v: Array, seed: Array) -> Array:
    """Interpolate lattice values in [-1, 1] smoothly."""
    i, fu = _lattice(xp, u)
    j, fv = _lattice(xp, v)
    fu = fu * fu * (3.0 - 2.0 * fu)
    fv = fv * fv * (3.0 - 2.0 * fv)
    # One round of mixing is enough for noise. The four corners share their products.
    base = i * 0x2C1B3C6D + j * 0x297A2D39 + seed
    corner = []
    for step in (0, 0x2C1B3C6D, 0x297A2D39, 0x2C1B3C6D + 0x297A2D39):
        h = base + step
        corner.append(xp.astype(((h ^ (h >> 15)) * 0x2C1B3C6D) >> 23, u.dtype))
    top = corner[0] + (corner[1] - corner[0]) * fu
    bottom = corner[2] + (corner[3] - corner[2]) * fu
    return (top + (bottom - top) * fv) * (1.0 / 256.0)


def _paste_decals(
    xp: Any,
    materials: dict[str, Array],
    index: Array,
    seed: Array,
    u: Array,
    v: Array,
    colour: list[Array],
) -> None:
    """Overwrite colours where a decal covers the surface; other points cost nothing."""
    share = xp.take(materials["decals"], index, axis=0)
    size = xp.take(materials["decal_size"], index, axis=0)
    x, y = u / size, v / size
    cell = xp.astype(xp.floor(x), xp.int32), xp.astype(xp.floor(y), xp.int32)
    h = _hash(xp, *cell, seed + 31)
    (some,) = xp.nonzero(_share(xp, h, 0, u) < share)
    if some.shape[0] == 0:
        return
    h, x, y = (xp.take(a, some, axis=0) for a in (h, x, y))
    place = _hash(xp, h, h >> 7, h * 0 + 1)
    half = [0.16 + 0.26 * _share(xp, place, s, x) for s in (0, 8)]
    centre = [
        a + (1.0 - 2.0 * a) * _share(xp, place, s, x) for a, s in zip(half, (16, 24), strict=True)
    ]
    x = (x - xp.floor(x) - centre[0]) / half[0]
    y = (y - xp.floor(y) - centre[1]) / half[1]
    ax, ay = xp.abs(x), xp.abs(y)
    kind = (h >> 8) & 7
    disc = xp.sqrt(x * x + y * y)
    # Five of eight decals are framed pictures, the others discs, rings and diamonds.
    radius = xp.where(kind < 5, xp.maximum(ax, ay), xp.where(kind == 7, ax + ay, disc))
    covered = (radius < 1.0) & ((kind != 6) | (radius > 0.45))
    frame = (radius > 0.82) & (kind != 6)
    # The picture: a horizon at any angle, and a disc.
    dx, dy = (2.0 * _share(xp, h, s, x) - 1.0 for s in (12, 18))
    above = dx * x + dy * y > 0.3 * dx * dy
    spot = (x - dy) ** 2 + (y + dx) ** 2 < 0.3
    paint = xp.where(frame, 0, xp.where(spot, 1, 2 + xp.astype(above, xp.int32)))
    paint = _hash(xp, paint, h, h * 0 + 41)
    mount = (kind < 3) & (radius > 0.6) & ~frame
    # Light or dark as a whole, beside the hue: decals shall differ in grey pictures, too.
    light = 0.25 + 0.75 * _share(xp, paint, 24, x)
    (where,) = xp.nonzero(covered)
    target = xp.take(some, where, axis=0)
    for c in range(3):
        value = (0.15 + 0.85 * _share(xp, paint, 8 * c, x)) * light
        value = xp.where(mount, 0.88, value)
        colour[c][target] = xp.take(value, where, axis=0)
