"""
Procedural textures evaluated at surface coordinates: noise, mosaic, checker and glyph strips.

Everything is a pure function of (seed, u, v), computed with integer hashes that are equal in numpy
and torch, so that a surface looks the same from every camera and in every backend.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

# Arrays of either backend; array_api_compat ships no types.
Array = Any

_OCTAVES = 4
_GLYPH_COLUMNS = 6  # five dots and a gap
_GLYPH_ROWS = 9  # seven dots and two gaps


@dataclass(frozen=True)
class Materials:
    """
    K materials, one row each, in numpy on the host; the renderer copies them to the device.

    Attributes:
        seed: (K,) int64, start of every hash.
        period: (K,) metres of the coarsest feature.
        colours: (K, 3, 3) linear RGB in [0, 1]: low noise, high noise, ink.
        mosaic: (K,) weight of the patchwork of random colours at three sizes ("photo-like").
        checker: (K,) darkening of every other square.
        glyphs: (K,) opacity of the text-like strips.
    """

    seed: npt.NDArray[np.int64]
    period: npt.NDArray[np.float64]
    colours: npt.NDArray[np.float64]
    mosaic: npt.NDArray[np.float64]
    checker: npt.NDArray[np.float64]
    glyphs: npt.NDArray[np.float64]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def albedo(xp: Any, materials: dict[str, Array], index: Array, u: Array, v: Array) -> Array:
    """
    Return the colour of N surface points.

    Args:
        xp: Array namespace.
        materials: `Materials.arrays()` in that namespace.
        index: (N,) int64 index of each point's material.
        u: (N,) surface coordinate in metres.
        v: (N,) surface coordinate in metres, downwards on walls.

    Returns:
        Colours (N, 3), float64, in [0, 1].
    """
    seed = materials["seed"][index]
    period = materials["period"][index]
    u, v = u / period, v / period
    low, high, ink = (materials["colours"][index, k] for k in range(3))
    n = _fbm(xp, u, v, seed)[:, None]
    colour = low + (high - low) * n
    colour = colour + materials["mosaic"][index][:, None] * _mosaic(xp, u, v, seed)
    parity = (xp.floor(2.0 * u) + xp.floor(2.0 * v)) % 2.0
    colour = colour * (1.0 - materials["checker"][index] * parity)[:, None]
    opacity = (materials["glyphs"][index] * _glyphs(xp, u, v, seed))[:, None]
    colour = colour + (ink - colour) * opacity
    return xp.clip(colour, 0.0, 1.0)


def _hash(xp: Any, i: Array, j: Array, seed: Array) -> Array:
    """
    Hash a lattice point to 32 well-mixed bits, as int64.

    Multipliers stay under 2^31 and operands under 2^32, so that every product fits into int64,
    because numpy and torch have no common unsigned arithmetic.
    """
    mask = 0xFFFFFFFF
    h = (i * 0x2C1B3C6D + j * 0x297A2D39 + seed * 0x1B873593) & mask
    h = ((h ^ (h >> 16)) * 0x2C1B3C6D) & mask
    h = ((h ^ (h >> 13)) * 0x297A2D39) & mask
    return h ^ (h >> 16)


def _lattice(xp: Any, x: Array) -> tuple[Array, Array]:
    """Return the cell index (int64) and the position within the cell."""
    cell = xp.floor(x)
    return xp.astype(cell, xp.int64), x - cell


def _value_noise(xp: Any, u: Array, v: Array, seed: Array) -> Array:
    """Interpolate lattice values in [0, 1] smoothly."""
    i, fu = _lattice(xp, u)
    j, fv = _lattice(xp, v)
    fu = fu * fu * (3.0 - 2.0 * fu)
    fv = fv * fv * (3.0 - 2.0 * fv)
    corner = [xp.astype(_hash(xp, i + a, j + b, seed), xp.float64) for b in (0, 1) for a in (0, 1)]
    top = corner[0] + (corner[1] - corner[0]) * fu
    bottom = corner[2] + (corner[3] - corner[2]) * fu
    return (top + (bottom - top) * fv) * (1.0 / 0xFFFFFFFF)


def _fbm(xp: Any, u: Array, v: Array, seed: Array) -> Array:
    """Sum octaves of value noise, stretched to use most of [0, 1]."""
    total = xp.zeros_like(u)
    weight, amplitude, frequency = 0.0, 1.0, 1.0
    for octave in range(_OCTAVES):
        total = total + amplitude * _value_noise(xp, u * frequency, v * frequency, seed + octave)
        weight += amplitude
        amplitude *= 0.65
        frequency *= 2.03  # not 2, so that the lattices of the octaves do not coincide
    return xp.clip((total / weight - 0.5) * 2.2 + 0.5, 0.0, 1.0)


def _mosaic(xp: Any, u: Array, v: Array, seed: Array) -> Array:
    """Overlay rectangles of random colour offsets at three sizes: sharp edges of every length."""
    offset: Array = 0.0
    for level, (frequency, amplitude) in enumerate(((1.3, 0.5), (2.9, 0.33), (6.1, 0.17))):
        row, _ = _lattice(xp, v * frequency + 0.37 * level)
        # Rows of bricks are shifted against each other, because otherwise all edges would line up.
        shift = xp.astype(row % 3, xp.float64) * 0.37
        column, _ = _lattice(xp, u * frequency * 0.8 + shift)
        h = _hash(xp, column, row, seed + 17 + level)
        rgb = xp.stack([(h >> s) & 0xFF for s in (0, 8, 16)], axis=-1)
        offset = offset + amplitude * (xp.astype(rgb, xp.float64) / 127.5 - 1.0)
    return offset


def _glyphs(xp: Any, u: Array, v: Array, seed: Array) -> Array:
    """Return 1 where there is ink: lines of random 5 x 7 dot letters with gaps between words."""
    column, _ = _lattice(xp, u * 4.0 * _GLYPH_COLUMNS)
    row, _ = _lattice(xp, v * 3.0 * _GLYPH_ROWS)
    letter, x = column // _GLYPH_COLUMNS, column % _GLYPH_COLUMNS
    line, y = row // _GLYPH_ROWS, row % _GLYPH_ROWS
    letter_hash = _hash(xp, letter, line, seed + 31)
    dot = _hash(xp, letter_hash % 26 + 64 * x, y, seed + 37) % 100 < 55
    within = (x < _GLYPH_COLUMNS - 1) & (y < _GLYPH_ROWS - 2)
    written = (letter_hash % 6 > 0) & (_hash(xp, line, line * 0, seed + 41) % 4 > 0)
    return xp.astype(dot & within & written, xp.float64)
