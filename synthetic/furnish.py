"""Furnish the families of scenes: walls, partitions, furniture, pictures and piles of objects."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from covis.synthetic import furniture, looks
from covis.synthetic.builder import Builder, Piece

_Vector = npt.NDArray[np.float64]

# Width in metres of the corridor of a loop.
LOOP_WIDTH = 2.4


def shell(builder: Builder, height: float, weak: bool = False) -> list[int]:
    """
    Add the materials of a room and return those of -x, +x, ceiling, floor, -z and +z.

    Args:
        builder: Builder of the scene.
        height: Height of the room in metres.
        weak: Give the walls almost no texture, and the floor a distinct one.
    """
    rng = builder.rng
    skirting = builder.material(looks.plain(rng))
    wainscot = builder.material(looks.panels(rng) if rng.uniform() < 0.5 else looks.tiles(rng))
    wainscot = builder.trimmed(wainscot, height / 2 - 0.1, skirting)
    low = float(rng.uniform(0.7, 1.1))
    kind = rng.uniform()
    common = looks.wall(rng)
    walls = []
    for _ in range(4):
        # One wallpaper for the whole room, or walls that differ.
        look = looks.paint(rng) if weak else (common if kind < 0.3 else looks.wall(rng))
        material = builder.material(look)
        has_wainscot = not weak and kind > 0.7
        edge = height / 2 - (low if has_wainscot else 0.1)
        walls.append(builder.trimmed(material, edge, wainscot if has_wainscot else skirting))
    top, ground = builder.material(looks.ceiling(rng)), builder.material(looks.floor(rng))
    return [walls[0], walls[1], top, ground, walls[2], walls[3]]


def furnish_room(builder: Builder, extent: _Vector, height: float, varied: bool) -> None:
    """
    Add a pile or a partition in the middle, furniture and pictures at the walls.

    Args:
        builder: Builder of the scene.
        extent: (2,) half extents of the room.
        height: Height of the room.
        varied: Add corners, partition walls, pillars, beams and steps, which change its shape.
    """
    rng = builder.rng
    walls = _Walls(builder, extent, height)
    if varied:
        _change_shape(builder, walls, extent, height)
    for k in range(int(rng.integers(2, 5))):
        angle = rng.uniform(0, 2 * np.pi)
        radius = 0.0 if k == 0 else rng.uniform(0.4, 0.7)
        x, z = float(radius * np.cos(angle)), float(radius * np.sin(angle))
        make = (furniture.crates, furniture.table, furniture.lamp)[int(rng.integers(3))]
        builder.place(make(builder)[0], x, z, yaw=float(rng.uniform(0, np.pi)))
    _furnish_walls(builder, walls, height, int(rng.integers(3, 6)), int(rng.integers(4, 8)))
    rug = builder.material(looks.patchwork(rng, (0.2, 0.4)))
    size = (float(rng.uniform(1.2, 2.4)), 0.012, float(rng.uniform(0.9, 1.6)))
    builder.place([furniture.box(rug, size)], yaw=float(rng.uniform(0, np.pi)))


def furnish_loop(builder: Builder, extent: _Vector, height: float) -> None:
    """Add a solid core that leaves a corridor, and furniture and pictures at the outer wall."""
    rng = builder.rng
    core = 2 * (extent - LOOP_WIDTH)
    face = builder.material(looks.wall(rng))
    skirting = builder.material(looks.plain(rng))
    face = builder.trimmed(face, height / 2 - 0.1, skirting)
    size = (float(core[0]), height + 0.02, float(core[1]))
    builder.place([furniture.box(face, size, base=-0.01)])
    walls = _Walls(builder, extent, height)
    for sx in (-1.0, 1.0):
        for sz in (-1.0, 1.0):
            x, z = sx * (float(extent[0]) - 0.4), sz * (float(extent[1]) - 0.4)
            builder.place(furniture.crates(builder)[0], x, z, yaw=float(rng.uniform(0, np.pi)))
    _furnish_walls(builder, walls, height, int(rng.integers(5, 9)), int(rng.integers(8, 13)))


def furnish_objects(builder: Builder) -> _Vector:
    """Add 5 to 12 objects close together on a table or on the ground; return their middle."""
    rng = builder.rng
    base = 0.0
    if rng.uniform() < 0.6:
        base = float(rng.uniform(0.35, 0.7))
        top, foot = builder.material(looks.floor(rng)), builder.material(looks.plain(rng))
        half = float(rng.uniform(0.8, 0.95))
        if rng.uniform() < 0.5:
            piece = [furniture.tube(top, half, 0.06, base=base - 0.06)]
        else:
            piece = [furniture.box(top, (1.5 * half, 0.06, 1.5 * half), base=base - 0.06)]
        builder.place([*piece, furniture.tube(foot, 0.15, base - 0.06)])
    count = int(rng.integers(5, 13))
    taken: list[tuple[float, float, float]] = []
    for _ in range(40 * count):
        size = float(rng.uniform(0.12, 0.28))
        radius = 0.6 * np.sqrt(rng.uniform())
        angle = rng.uniform(0, 2 * np.pi)
        x, z = float(radius * np.cos(angle)), float(radius * np.sin(angle))
        if any(np.hypot(x - a, z - b) < 0.9 * (size + c) for a, b, c in taken):
            continue
        if builder.place(furniture.thing(builder, size, base=base), x, z):
            taken.append((x, z, size))
        if len(taken) == count:
            break
    return np.array([0.0, -base - 0.2, 0.0])


def _change_shape(builder: Builder, walls: _Walls, extent: _Vector, height: float) -> None:
    """Add what makes a room L-shaped or divided: corners, partitions, pillars, beams, steps."""
    rng = builder.rng
    kinds = [looks.wall(rng) for _ in range(2)]
    face, other = (builder.material(k) for k in kinds)
    ex, ez = float(extent[0]), float(extent[1])
    if rng.uniform() < 0.4:  # a corner is cut off: the room is L-shaped
        sx, sz = (float(rng.choice([-1.0, 1.0])) for _ in range(2))
        a, b = rng.uniform(0.5, 0.75, 2)
        size = ((1 - a) * ex, height, (1 - b) * ez)
        x, z = sx * (1 + a) / 2 * ex, sz * (1 + b) / 2 * ez
        if builder.place([furniture.box(face, size)], x, z):
            walls.take(0 if sx > 0 else 1, *sorted((sz * b * ez, sz * ez)))
            walls.take(2 if sz > 0 else 3, *sorted((sx * a * ex, sx * ex)))
    if rng.uniform() < 0.35:  # a wall through the middle divides the room
        long, tall = float(rng.uniform(0.8, 1.5)), height * float(rng.choice([0.6, 1.0]))
        builder.place([furniture.box(other, (long, tall, 0.12))], yaw=float(rng.uniform(0, np.pi)))
    for _ in range(int(rng.integers(0, 3))):  # walls that stand out make alcoves
        wall, reach = int(rng.integers(4)), float(rng.uniform(0.5, 0.9))
        at = walls.free(wall, 0.16)
        if at is not None:
            walls.put([furniture.box(face, (0.12, height, reach))], wall, at, 0.12, reach)
    for _ in range(int(rng.integers(0, 3))):
        x, z = rng.uniform(-0.9, 0.9, 2) * extent
        width = float(rng.uniform(0.2, 0.4))
        round_one = furniture.tube(other, width / 2, height)
        square = furniture.box(other, (width, height, width))
        builder.place([round_one if rng.uniform() < 0.5 else square], float(x), float(z))
    if rng.uniform() < 0.5:  # beams under the ceiling
        beam = builder.material(looks.planks(rng))
        for x in rng.uniform(-0.8, 0.8, int(rng.integers(1, 4))) * ex:
            deep = float(rng.uniform(0.1, 0.2))
            builder.place([furniture.box(beam, (0.14, deep, 2 * ez), base=height - deep)], float(x))
    if rng.uniform() < 0.5:  # steps along a wall
        wall = int(rng.integers(4))
        at = walls.free(wall, 1.2)
        stone = builder.material(looks.tiles(rng))
        if at is not None:
            steps = [
                furniture.box(stone, (1.2 - 0.02 * k, 0.16 * (k + 1), 0.9 - 0.25 * k), z=0.125 * k)
                for k in range(3)
            ]
            walls.put(steps, wall, at, 1.2, 0.9)


class _Walls:
    """
    Four walls (+x, -x, +z, -z) and what stands at them.

    Args:
        builder: Builder of the scene.
        extent: (2,) half extents of the room.
        height: Height of the room.
    """

    def __init__(self, builder: Builder, extent: _Vector, height: float) -> None:
        self.builder, self.extent, self.height = builder, extent, height
        self._taken: list[list[tuple[float, float]]] = [[], [], [], []]

    def take(self, wall: int, low: float, high: float) -> None:
        """Mark a part of a wall, in metres along it, as taken."""
        self._taken[wall].append((low, high))

    def free(self, wall: int, width: float) -> float | None:
        """Return a random place along a wall with `width` free metres around it, or None."""
        length = float(self.extent[1 if wall < 2 else 0]) - width / 2 - 0.05
        for _ in range(12):
            at = float(self.builder.rng.uniform(-length, length)) if length > 0 else 0.0
            low, high = at - width / 2 - 0.04, at + width / 2 + 0.04
            if all(high < a or low > b for a, b in self._taken[wall]):
                return at
        return None

    def put(self, piece: Piece, wall: int, at: float, width: float, depth: float) -> None:
        """Add a piece with its back (+z) to a wall, if it leaves the cameras' path free."""
        axis, sign = wall // 2, 1.0 if wall % 2 == 0 else -1.0
        place = [at, at]
        place[axis] = sign * (float(self.extent[axis]) - depth / 2)
        quarters = {0: 1, 1: 3, 2: 0, 3: 2}[wall]
        if self.builder.place(piece, place[0], place[1], quarters=quarters):
            self.take(wall, at - width / 2, at + width / 2)


def _furnish_walls(
    builder: Builder, walls: _Walls, height: float, standing: int, hanging: int
) -> None:
    """Put pieces along random walls: furniture on the floor, pictures above, a door or two."""
    rng = builder.rng
    pieces = [furniture.door(builder, height)]
    for _ in range(standing):
        kind = int(rng.integers(5))
        if kind < 2:
            pieces.append(furniture.cupboard(builder, height))
        else:
            make = (furniture.table, furniture.sofa, furniture.lamp)[kind - 2]
            pieces.append(make(builder))
    pieces += [furniture.framed(builder, height) for _ in range(hanging)]
    for piece, width, depth in pieces:
        wall = int(rng.integers(4))
        at = walls.free(wall, width)
        if at is not None:
            walls.put(piece, wall, at, width, depth)
