"""Light that arrives at surfaces: ambient light, lamps, and the darkness of corners."""

from __future__ import annotations

from typing import Any

from covis.synthetic.geometry import Vectors
from covis.synthetic.scenes import World
from covis.synthetic.textures import Array

# Metres from a wall, the floor or the ceiling within which less light arrives.
_CORNER = 0.4


def illumination(
    xp: Any, world: World, point: Vectors, normal: Vectors, sunlit: Array | None
) -> list[Array]:
    """
    Return the light that points reflect by Lambert's law, before the colour of the surface.

    Args:
        xp: Array namespace.
        world: Scene, whose lights and size are on the host.
        point: x, y and z (N,) of the points in the world.
        normal: x, y and z (N,) of the unit normals.
        sunlit: (N,) share of the distant lamp that reaches each point; None for all.

    Returns:
        Red, green and blue (N,).
    """
    lights, n = world.lights, normal
    sun = [float(a) for a in lights.sun_direction]
    facing = xp.clip(n[0] * sun[0] + n[1] * sun[1] + n[2] * sun[2], 0.0, None)
    if sunlit is not None:
        facing = facing * sunlit
    light = [facing * float(lights.sun[c]) + float(lights.ambient[c]) for c in range(3)]
    for position, power in zip(lights.position, lights.power, strict=True):
        x, y, z = (float(a) - p for a, p in zip(position, point, strict=True))
        square = x * x + y * y + z * z + 0.3  # lamps have a size
        cosine = xp.clip(n[0] * x + n[1] * y + n[2] * z, 0.0, None)
        falloff = cosine / (square * xp.sqrt(square))
        light = [value + falloff * float(p) for value, p in zip(light, power, strict=True)]
    open_air = _openness(xp, world, point, n)
    return [value * open_air for value in light]


def _openness(xp: Any, world: World, point: Vectors, normal: Vectors) -> Array:
    """Return how little the corners of the room darken points (N,): 1 in the open."""
    room = world.primitives
    open_air: Array = 1.0
    for p, n, c, h in zip(point, normal, room.centre[0], room.half[0], strict=True):
        gap = float(h) - xp.abs(p - float(c))
        near = xp.clip(1.0 - gap * (1.0 / _CORNER), 0.0, 1.0)
        # A surface that faces along this axis is not in the corner, it is the wall.
        open_air = open_air * (1.0 - 0.45 * near * near * (1.0 - n * n))
    return open_air
