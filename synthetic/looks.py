"""Materials of rooms and things: plaster, wallpaper, brick, wood, stone, books, pictures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from covis.synthetic.builder import Look

_Vector = npt.NDArray[np.float64]
_Rng = np.random.Generator


def colour(hue: float, saturation: float, value: float) -> _Vector:
    """Convert hue, saturation and value, all in [0, 1] (hue wraps), to RGB (3,)."""
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6.0) % 6.0
    return np.asarray(value - value * saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0))


def palette(
    rng: _Rng, saturation: tuple[float, float], value: tuple[float, float], spread: float
) -> _Vector:
    """
    Return four related colours (4, 3) around a random hue.

    Args:
        rng: Generator of the scene.
        saturation: Range of the saturation.
        value: Range of the value (brightness).
        spread: Standard deviation of the hue among the four, in turns of the colour circle.
    """
    hue = rng.uniform()
    return np.stack(
        [
            colour(hue + rng.normal(0, spread), rng.uniform(*saturation), rng.uniform(*value))
            for _ in range(4)
        ]
    )


def paint(rng: _Rng, decals: float = 0.0, decal_size: float = 0.9) -> Look:
    """Return painted plaster, perhaps with posters and pictures on it."""
    base = colour(rng.uniform(), rng.uniform(0.05, 0.5), rng.uniform(0.5, 0.95))
    return Look(
        np.tile(base, (4, 1)),
        base,
        length=float(rng.uniform(0.4, 0.9)),
        height=float(rng.uniform(0.3, 0.6)),
        shift=1.0,
        split_u=1.0,
        split_v=1.0,
        vary=0.05 if decals > 0.0 else 0.0,
        grain=float(rng.uniform(0.08, 0.16)),
        grain_u=float(rng.uniform(0.3, 0.9)),
        grain_v=float(rng.uniform(0.3, 0.9)),
        decals=decals,
        decal_size=decal_size,
    )


def panels(rng: _Rng, decals: float = 0.0) -> Look:
    """Return wallpaper in upright stripes of random widths and tones."""
    tones = palette(rng, (0.1, 0.6), (0.4, 0.95), 0.06)
    return Look(
        tones,
        tones[0] * 0.4,
        length=float(rng.uniform(0.25, 0.6)),
        height=9.0,
        shift=1.0,
        split_u=1.0,
        joint=float(rng.choice([0.0, 0.008])),
        vary=0.2,
        decals=decals,
        decal_size=float(rng.uniform(0.5, 0.9)),
    )


def brick(rng: _Rng) -> Look:
    """Return bricks of a few tones with light or dark joints."""
    tones = palette(rng, (0.15, 0.6), (0.3, 0.9), 0.05)
    return Look(
        tones,
        np.full(3, rng.choice([0.15, 0.8])),
        length=float(rng.uniform(0.26, 0.4)),
        height=float(rng.uniform(0.11, 0.18)),
        shift=1.0,
        joint=0.01,
        vary=float(rng.uniform(0.2, 0.4)),
        grain=0.1,
    )


def tiles(rng: _Rng, size: tuple[float, float] = (0.2, 0.4)) -> Look:
    """Return tiles in straight rows, with tones of one family or of all hues."""
    side = float(rng.uniform(*size))
    tones = palette(rng, (0.1, 0.7), (0.25, 0.95), float(rng.choice([0.04, 0.25])))
    return Look(
        tones,
        np.full(3, rng.choice([0.12, 0.85])),
        length=side,
        height=side,
        joint=0.008,
        vary=float(rng.uniform(0.15, 0.35)),
        grain=0.06,
    )


def patchwork(rng: _Rng, size: tuple[float, float] = (0.3, 0.6)) -> Look:
    """Return slabs of random sizes: a stone floor, a carpet, a quilt."""
    tones = palette(rng, (0.1, 0.75), (0.2, 0.95), float(rng.choice([0.05, 0.2])))
    side = float(rng.uniform(*size))
    return Look(
        tones,
        np.full(3, rng.choice([0.1, 0.7])),
        length=side,
        height=side * float(rng.uniform(0.7, 1.1)),
        shift=1.0,
        split_u=1.0,
        split_v=1.0,
        joint=0.008,
        vary=0.25,
        grain=0.1,
    )


def planks(rng: _Rng) -> Look:
    """Return boards of wood with grain along them."""
    hue = rng.uniform(0.04, 0.12)
    dark = rng.uniform(0.3, 0.8)
    tones = np.stack(
        [
            colour(hue + rng.normal(0, 0.01), rng.uniform(0.3, 0.7), dark * rng.uniform(0.6, 1.25))
            for _ in range(4)
        ]
    )
    return Look(
        np.clip(tones, 0.0, 1.0),
        tones[0] * 0.3,
        length=float(rng.uniform(0.6, 1.1)),
        height=float(rng.uniform(0.12, 0.2)),
        shift=1.0,
        split_u=1.0,
        joint=0.006,
        vary=0.2,
        grain=0.16,
        grain_u=0.4,
        grain_v=0.05,
    )


def books(rng: _Rng) -> Look:
    """Return shelves of books: spines of random widths and hues in rows."""
    tones = palette(rng, (0.3, 0.9), (0.2, 0.9), 0.3)
    return Look(
        tones,
        colour(rng.uniform(0.04, 0.12), 0.5, rng.uniform(0.1, 0.5)),
        length=float(rng.uniform(0.1, 0.2)),
        height=float(rng.uniform(0.25, 0.36)),
        shift=1.0,
        split_u=1.0,
        joint=0.012,
        vary=0.5,
        grain=0.05,
    )


def picture(rng: _Rng) -> Look:
    """Return a picture: fields of random colours, and figures in front of them."""
    return Look(
        palette(rng, (0.1, 0.9), (0.2, 1.0), 0.25),
        np.full(3, 0.1),
        length=float(rng.uniform(0.3, 0.6)),
        height=float(rng.uniform(0.2, 0.5)),
        shift=1.0,
        split_u=1.0,
        split_v=1.0,
        vary=0.3,
        grain=0.15,
        grain_u=0.15,
        grain_v=0.15,
        decals=0.7,
        decal_size=float(rng.uniform(0.25, 0.4)),
    )


def window(rng: _Rng) -> Look:
    """Return panes with white bars, behind them a sky."""
    tones = palette(rng, (0.05, 0.4), (0.7, 1.0), 0.05)
    return Look(
        tones,
        np.full(3, 0.95),
        length=float(rng.uniform(0.3, 0.5)),
        height=float(rng.uniform(0.35, 0.6)),
        joint=0.025,
        grain=0.25,
        grain_u=0.5,
        grain_v=0.25,
    )


def plain(rng: _Rng, value: tuple[float, float] = (0.15, 0.95)) -> Look:
    """Return one colour with a little grain: frames, legs, skirting boards."""
    base = colour(rng.uniform(), rng.uniform(0.0, 0.6), rng.uniform(*value))
    return Look(np.tile(base, (4, 1)), base, grain=0.06, grain_u=0.2, grain_v=0.2)


def toy(rng: _Rng) -> Look:
    """Return the surface of a small object: patches, stripes or figures of strong colours."""
    kind = int(rng.integers(5))
    if kind == 0:
        return patchwork(rng, (0.12, 0.3))
    if kind == 1:
        return tiles(rng, (0.08, 0.16))
    tones = palette(rng, (0.3, 0.95), (0.25, 1.0), float(rng.choice([0.03, 0.3])))
    stripes = {2: (0.16, 9.0), 3: (9.0, 0.14), 4: (9.0, 9.0)}[kind]
    return Look(
        tones,
        tones[1] * 0.3,
        length=stripes[0],
        height=stripes[1],
        split_u=float(kind == 2),
        split_v=float(kind == 3),
        vary=0.3,
        grain=0.12,
        grain_u=0.15,
        grain_v=0.15,
        decals=float(rng.choice([0.5, 0.9])),
        decal_size=float(rng.uniform(0.15, 0.3)),
    )


def wall(rng: _Rng) -> Look:
    """Return the surface of a wall."""
    kind = int(rng.integers(5))
    if kind == 0:
        return brick(rng)
    if kind == 1:
        return panels(rng, decals=float(rng.uniform(0.3, 0.8)))
    if kind == 2:
        return tiles(rng) if rng.uniform() < 0.4 else patchwork(rng)
    return paint(rng, float(rng.uniform(0.5, 0.9)), float(rng.uniform(0.5, 0.9)))


def floor(rng: _Rng) -> Look:
    """Return the surface of a floor."""
    return (planks, patchwork, tiles)[int(rng.integers(3))](rng)


def ceiling(rng: _Rng) -> Look:
    """Return the surface of a ceiling: pale panels."""
    tones = palette(rng, (0.0, 0.12), (0.75, 0.95), 0.02)
    side = float(rng.uniform(0.5, 0.8))
    return Look(
        tones,
        tones[0] * 0.6,
        length=side,
        height=side,
        shift=0.5,
        split_u=1.0,
        joint=0.01,
        vary=0.1,
    )
