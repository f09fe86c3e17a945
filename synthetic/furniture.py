"""Pieces of furniture and things, each of a few boxes, spheres and cylinders."""

from __future__ import annotations

import numpy as np

from covis.synthetic import looks
from covis.synthetic.builder import Builder, Part, Piece
from covis.synthetic.geometry import Shape


def box(
    material: int,
    size: tuple[float, float, float],
    x: float = 0.0,
    base: float = 0.0,
    z: float = 0.0,
    yaw: float = 0.0,
) -> Part:
    """Return a box of the size (width, height, depth) whose underside is `base` above the floor."""
    width, height, depth = size
    centre = (x, -(base + height / 2), z)
    return Part(Shape.BOX, centre, (width / 2, height / 2, depth / 2), material, yaw)


def ball(material: int, radius: float, x: float = 0.0, base: float = 0.0, z: float = 0.0) -> Part:
    """Return a sphere whose lowest point is `base` above the floor."""
    return Part(Shape.SPHERE, (x, -(base + radius), z), (radius,) * 3, material)


def tube(
    material: int, radius: float, height: float, x: float = 0.0, base: float = 0.0, z: float = 0.0
) -> Part:
    """Return an upright cylinder whose underside is `base` above the floor."""
    centre = (x, -(base + height / 2), z)
    return Part(Shape.CYLINDER, centre, (radius, height / 2, radius), material)


def cupboard(builder: Builder, room_height: float) -> tuple[Piece, float, float]:
    """Return a cupboard or a bookcase, its width and its depth; the back is at +z."""
    rng = builder.rng
    width, depth = float(rng.uniform(0.6, 1.4)), float(rng.uniform(0.3, 0.45))
    tall = float(rng.uniform(0.35, 0.75) * room_height)
    body = builder.material(looks.planks(rng))
    front = looks.books(rng) if rng.uniform() < 0.6 else looks.tiles(rng, (0.3, 0.5))
    face = builder.material(front)
    piece = [
        box(body, (width, tall, depth)),
        box(face, (width - 0.08, tall - 0.14, depth), base=0.09, z=-0.015),
    ]
    if rng.uniform() < 0.6 and tall < room_height - 0.5:
        piece += thing(builder, float(rng.uniform(0.12, 0.2)), base=tall)
    return piece, width, depth


def table(builder: Builder) -> tuple[Piece, float, float]:
    """Return a table with things on it, its width and its depth."""
    rng = builder.rng
    width, depth = float(rng.uniform(0.7, 1.2)), float(rng.uniform(0.5, 0.7))
    tall = float(rng.uniform(0.45, 0.75))
    top, leg = builder.material(looks.planks(rng)), builder.material(looks.plain(rng))
    x, z = width / 2 - 0.06, depth / 2 - 0.06
    piece = [box(top, (width, 0.05, depth), base=tall - 0.05)]
    piece += [
        box(leg, (0.06, tall - 0.05, 0.06), sx * x, 0.0, sz * z) for sx in (-1, 1) for sz in (-1, 1)
    ]
    for sx in (-1, 1)[: int(rng.integers(1, 3))]:
        piece += thing(builder, float(rng.uniform(0.1, 0.18)), sx * width / 4, tall)
    return piece, width, depth


def sofa(builder: Builder) -> tuple[Piece, float, float]:
    """Return a sofa or a bed with cushions, its width and its depth; the back is at +z."""
    rng = builder.rng
    width, depth = float(rng.uniform(1.0, 1.7)), float(rng.uniform(0.6, 0.8))
    cloth = builder.material(looks.patchwork(rng, (0.25, 0.5)))
    pillow = builder.material(looks.toy(rng))
    piece = [
        box(cloth, (width, 0.4, depth)),
        box(cloth, (width, 0.45, 0.18), base=0.4, z=depth / 2 - 0.09),
        box(pillow, (0.36, 0.3, 0.14), float(rng.uniform(-0.25, 0.25)) * width, 0.4, 0.1, 0.3),
    ]
    if rng.uniform() < 0.6:
        piece += [box(cloth, (0.16, 0.6, depth), sx * (width / 2 + 0.08)) for sx in (-1, 1)]
        width += 0.32
    return piece, width, depth


def lamp(builder: Builder) -> tuple[Piece, float, float]:
    """Return a lamp or a plant in a pot, its width and its depth."""
    rng = builder.rng
    stem, head = builder.material(looks.plain(rng)), builder.material(looks.toy(rng))
    tall, radius = float(rng.uniform(0.9, 1.5)), float(rng.uniform(0.14, 0.24))
    if rng.uniform() < 0.5:
        piece = [
            tube(stem, radius, 0.04),
            tube(stem, 0.025, tall, base=0.04),
            tube(head, radius, 0.32, base=tall),
        ]
    else:
        pot = builder.material(looks.toy(rng))
        piece = [tube(pot, radius, 0.4), tube(stem, 0.03, tall - 0.3, base=0.4)]
        for k in range(3):
            angle = 2.1 * k + float(rng.uniform(0, 1))
            x, z = 0.14 * np.cos(angle), 0.14 * np.sin(angle)
            piece.append(ball(head, radius * 0.9, float(x), tall - 0.45 + 0.17 * k, float(z)))
    return piece, 2 * radius, 2 * radius


def crates(builder: Builder) -> tuple[Piece, float, float]:
    """Return boxes piled up, each turned a little, the width and the depth of the pile."""
    rng = builder.rng
    side, base = float(rng.uniform(0.4, 0.65)), 0.0
    width, piece = side * 1.3, []
    for _ in range(int(rng.integers(2, 4))):
        tall = side * float(rng.uniform(0.5, 0.9))
        face = builder.material(looks.toy(rng))
        piece.append(box(face, (side, tall, side), base=base, yaw=float(rng.uniform(-0.4, 0.4))))
        base, side = base + tall, side * float(rng.uniform(0.6, 0.9))
    return piece + thing(builder, side / 3, base=base), width, width


def thing(
    builder: Builder, size: float, x: float = 0.0, base: float = 0.0, z: float = 0.0
) -> Piece:
    """Return a small object of one of many shapes, at most about `size` wide on each side."""
    rng = builder.rng
    kind = int(rng.integers(8))
    face = builder.material(looks.toy(rng))
    other = builder.material(looks.toy(rng))
    tall, yaw = size * float(rng.uniform(1.0, 3.0)), float(rng.uniform(0.1, 1.4))
    if kind == 0:
        return [ball(face, size, x, base, z)]
    if kind == 1:
        return [tube(face, size * 0.8, tall, x, base, z)]
    if kind == 2:  # a bottle
        low = tall * 0.6
        return [
            tube(face, size * 0.7, low, x, base, z),
            tube(other, size * 0.3, tall - low, x, base + low, z),
        ]
    if kind == 3:  # a ball on a box
        return [
            box(face, (1.5 * size, size, 1.2 * size), x, base, z, yaw),
            ball(other, size * 0.7, x, base + size, z),
        ]
    if kind == 4:  # an arch
        c, s = size * 0.75 * np.cos(yaw), -size * 0.75 * np.sin(yaw)
        post = (0.5 * size, tall * 0.7, 0.6 * size)
        return [
            box(face, post, x + c, base, z + s, yaw),
            box(face, post, x - c, base, z - s, yaw),
            box(other, (2.1 * size, 0.35 * size, 0.6 * size), x, base + tall * 0.7, z, yaw),
        ]
    if kind == 5:  # a stair of two steps
        c, s = size * 0.4 * np.cos(yaw), -size * 0.4 * np.sin(yaw)
        return [
            box(face, (0.8 * size, 0.6 * size, size), x + c, base, z + s, yaw),
            box(other, (0.8 * size, 1.2 * size, size), x - c, base, z - s, yaw),
        ]
    if kind == 6:  # a mushroom: a disc on a post
        return [
            tube(face, size * 0.35, tall * 0.7, x, base, z),
            tube(other, size, 0.3 * size, x, base + tall * 0.7, z),
        ]
    return [box(face, (1.4 * size, tall, size), x, base, z, yaw)]


def framed(builder: Builder, room_height: float) -> tuple[Piece, float, float]:
    """Return a picture, mirror-flat, or a window in its frame, its width and its depth."""
    rng = builder.rng
    width, tall = float(rng.uniform(0.4, 1.1)), float(rng.uniform(0.35, 0.42 * room_height))
    base = float(rng.uniform(0.3 * room_height, room_height - tall - 0.15))
    edge = float(rng.uniform(0.03, 0.07))
    frame = builder.material(looks.plain(rng))
    kind = looks.window if rng.uniform() < 0.25 else looks.picture
    canvas = builder.material(kind(rng))
    depth = float(rng.uniform(0.03, 0.08))
    piece = [
        box(frame, (width, tall, depth), base=base),
        box(canvas, (width - 2 * edge, tall - 2 * edge, depth), base=base + edge, z=-0.008),
    ]
    return piece, width, depth


def door(builder: Builder, room_height: float) -> tuple[Piece, float, float]:
    """Return a door in its frame, its width and its depth."""
    rng = builder.rng
    tall, depth = min(2.05, room_height - 0.15), 0.06
    frame = builder.material(looks.plain(rng))
    leaf = builder.material(looks.tiles(rng, (0.36, 0.5)))
    knob = builder.material(looks.plain(rng, (0.7, 1.0)))
    piece = [
        box(frame, (1.0, tall, depth)),
        box(leaf, (0.84, tall - 0.08, depth), z=-0.01),
        ball(knob, 0.04, 0.34, 1.0, -depth / 2 - 0.03),
    ]
    return piece, 1.0, depth
