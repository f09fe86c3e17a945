"""Build synthetic scenes from a seed: rooms and corridors with objects, materials, lights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from covis.engines.errors import user_error
from covis.synthetic.geometry import Primitives, Shape
from covis.synthetic.textures import Materials

Family = Literal["studio", "room", "loop"]
FAMILIES: tuple[Family, ...] = ("studio", "room", "loop")

# Seeds of published evaluations and of the demo; training rejects them.
HELD_OUT_SEEDS = range(1_000_000, 1_100_000)
# Training draws its seeds from here upwards.
TRAINING_SEEDS_START = 2_000_000

_Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SceneSpec:
    """
    Complete specification of a scene.

    Attributes:
        seed: Seed of everything random.
        family: Family of the scene. `studio`: one room of fixed size and one field of view, whose
            walls have fixed hues that identify them, the easiest to localise in; `room`: size, hues
            and furniture free; `loop`: a corridor around a solid core, where views of opposite
            sides share nothing.
    """

    seed: int
    family: Family = "room"

    def __post_init__(self) -> None:
        """Reject an unknown family or a negative seed."""
        if self.family not in FAMILIES:
            raise user_error(
                "no such family of scenes", where=self.family, hint="use studio, room or loop"
            )
        if self.seed < 0:
            raise user_error("seeds are not negative", where=str(self.seed))

    def generator(self, purpose: int = 0) -> np.random.Generator:
        """Create a random generator of this scene; `purpose` separates independent uses."""
        return np.random.default_rng([self.seed, FAMILIES.index(self.family), purpose])


@dataclass(frozen=True)
class Lights:
    """
    Ambient light, one distant lamp and L near lamps, all white up to a tint.

    Attributes:
        ambient: (3,) ambient radiance.
        sun_direction: (3,) unit vector from the surface to the distant lamp.
        sun: (3,) radiance of the distant lamp.
        position: (L, 3) positions of the near lamps in metres.
        power: (L, 3) radiance of the near lamps at one metre.
    """

    ambient: _Vector
    sun_direction: _Vector
    sun: _Vector
    position: _Vector
    power: _Vector


@dataclass(frozen=True)
class World:
    """
    Built scene.

    Attributes:
        spec: Specification of the scene.
        primitives: All surfaces; number 0 is the enclosing room.
        materials: Materials of the surfaces.
        lights: Ambient light and lamps.
        ring: (2,) half extents in x and z of the rounded rectangle that is free for cameras.
        height: Height of the room in metres; the floor is y = 0, the ceiling y = -height.
    """

    spec: SceneSpec
    primitives: Primitives
    materials: Materials
    lights: Lights
    ring: _Vector
    height: float


class _Builder:
    """Collector of primitives and their materials."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.rows: list[tuple[int, list[float], list[float], float, list[int]]] = []
        self.looks: list[tuple[int, float, _Vector, float, float, float]] = []

    def material(
        self,
        hue: float | None = None,
        period: tuple[float, float] = (0.8, 1.6),
    ) -> int:
        """Add a random material; a `hue` in [0, 1) makes it recognisable by its colour."""
        rng = self.rng
        has_hue = hue is not None
        base = _colour(
            rng.uniform() if hue is None else hue,
            rng.uniform(0.6, 0.8) if has_hue else rng.uniform(0.2, 0.7),
            rng.uniform(0.6, 0.9) if has_hue else rng.uniform(0.5, 0.95),
        )
        low = base * rng.uniform(0.25, 0.55)
        spread = 0.08 if has_hue else 0.25
        high = np.clip(base + rng.uniform(-spread, spread, 3), 0.05, 1.0)
        ink = _colour(rng.uniform(), rng.uniform(0.2, 1.0), float(rng.choice([0.08, 0.95])))
        kind = rng.uniform(size=2)
        self.looks.append(
            (
                int(rng.integers(1 << 31)),
                float(rng.uniform(*period)),
                np.stack([low, high, ink]),
                float(rng.uniform(0.05, 0.15 if has_hue else 0.4)),
                float(rng.uniform(0.2, 0.6)) if kind[0] < 0.3 else 0.0,
                float(rng.uniform(0.6, 1.0)) if kind[1] < 0.35 else 0.0,
            )
        )
        return len(self.looks) - 1

    def add(
        self, shape: Shape, centre: list[float], half: list[float], yaw: float, material: list[int]
    ) -> None:
        faces = material if len(material) == 6 else material * 6
        self.rows.append((int(shape), centre, half, yaw, faces))

    def object(self, x: float, z: float, size: float, height: float) -> None:
        """Add a box, a cylinder or a ball on a box, standing on the floor at (x, z)."""
        rng = self.rng
        kind = int(rng.integers(4))
        tall = float(height * rng.uniform(0.2, 0.75))
        half = float(size * rng.uniform(0.5, 1.0))
        yaw = float(rng.uniform(0, np.pi))
        look = self.material(period=(0.5, 1.2))
        if kind == 1:
            self.add(Shape.CYLINDER, [x, -tall / 2, z], [half, tall / 2, half], yaw, [look])
            return
        other = float(size * rng.uniform(0.5, 1.0))
        faces = [look] * 6 if kind == 2 else [self.material(period=(0.5, 1.2)) for _ in range(6)]
        if kind != 3:
            self.add(Shape.BOX, [x, -tall / 2, z], [half * 0.8, tall / 2, other * 0.8], yaw, faces)
            return
        low = tall * 0.5
        self.add(Shape.BOX, [x, -low / 2, z], [half * 0.8, low / 2, half * 0.8], yaw, faces)
        self.add(Shape.SPHERE, [x, -low - half * 0.7, z], [half * 0.7] * 3, yaw, [look])

    def primitives(self) -> Primitives:
        shape, centre, half, yaw, material = zip(*self.rows, strict=True)
        return Primitives(
            np.array(shape, np.int64),
            np.array(centre, np.float64),
            np.array(half, np.float64),
            np.array(yaw, np.float64),
            np.array(material, np.int64),
        )

    def materials(self) -> Materials:
        seed, period, colours, mosaic, checker, glyphs = zip(*self.looks, strict=True)
        return Materials(
            np.array(seed, np.int64),
            np.array(period, np.float64),
            np.stack(colours),
            np.array(mosaic, np.float64),
            np.array(checker, np.float64),
            np.array(glyphs, np.float64),
        )


def build(spec: SceneSpec) -> World:
    """Build the scene of a specification, the same on every machine."""
    rng = spec.generator()
    builder = _Builder(rng)
    if spec.family == "studio":
        height, extent = 2.8, np.array([2.6, 2.6])
    elif spec.family == "room":
        height, extent = float(rng.uniform(2.4, 3.4)), rng.uniform(2.2, 3.6, 2)
    else:
        height, extent = float(rng.uniform(2.4, 3.0)), rng.uniform(4.2, 5.2, 2)
    builder.add(
        Shape.ROOM,
        [0.0, -height / 2, 0.0],
        [float(extent[0]), height / 2, float(extent[1])],
        0.0,
        _room_materials(builder, spec.family),
    )
    if spec.family == "loop":
        ring = _furnish_loop(builder, extent, height)
    else:
        ring = _furnish_room(builder, extent, height)
    lights = _lights(rng, extent, height)
    return World(spec, builder.primitives(), builder.materials(), lights, ring, height)


def _room_materials(builder: _Builder, family: Family) -> list[int]:
    """Return the materials of -x, +x, ceiling, floor, -z, +z."""
    if family == "studio":
        hues = [0.0, 0.25, 0.55, 0.1, 0.5, 0.75]
        return [
            builder.material(h + float(builder.rng.uniform(-0.04, 0.04)), (1.0, 1.8)) for h in hues
        ]
    return [builder.material(period=(0.9, 1.8)) for _ in range(6)]


def _furnish_room(builder: _Builder, extent: _Vector, height: float) -> _Vector:
    """Add a pile in the middle, furniture and pictures at the walls; return the free ring."""
    rng = builder.rng
    for k in range(int(rng.integers(2, 5))):
        angle = rng.uniform(0, 2 * np.pi)
        radius = 0.0 if k == 0 else rng.uniform(0.3, 0.6)
        x, z = radius * np.cos(angle), radius * np.sin(angle)
        builder.object(float(x), float(z), 0.35, height)
    for _ in range(int(rng.integers(3, 7))):
        _wall_object(builder, extent, height)
    return extent * 0.6


def _wall_object(builder: _Builder, extent: _Vector, height: float) -> None:
    """Add a slab (picture or cupboard) against a random wall."""
    rng = builder.rng
    axis, side = int(rng.integers(2)), float(rng.choice([-1.0, 1.0]))
    depth = float(rng.uniform(0.05, 0.3))
    width, tall = float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.3, height * 0.4))
    # Cupboards stand on the floor, pictures hang.
    y = -tall if depth > 0.15 else -float(rng.uniform(tall, height - tall))
    along = float(rng.uniform(-0.8, 0.8) * extent[1 - axis])
    centre, half = [0.0, y, 0.0], [0.0, tall, 0.0]
    centre[2 * axis] = side * (float(extent[axis]) - depth)
    centre[2 - 2 * axis] = along
    half[2 * axis], half[2 - 2 * axis] = depth, width
    builder.add(Shape.BOX, centre, half, 0.0, [builder.material(period=(0.5, 1.2))])


def _furnish_loop(builder: _Builder, extent: _Vector, height: float) -> _Vector:
    """Add a solid core that leaves a corridor 2.4 m wide, and objects at the outer wall."""
    width = 2.4
    core = extent - width
    faces = [builder.material(period=(0.9, 1.8)) for _ in range(6)]
    half = [float(core[0]), height / 2 + 0.01, float(core[1])]
    builder.add(Shape.BOX, [0.0, -height / 2, 0.0], half, 0.0, faces)
    for _ in range(int(builder.rng.integers(12, 18))):
        _wall_object(builder, extent, height)
    for sx in (-1.0, 1.0):
        for sz in (-1.0, 1.0):
            x, z = sx * (float(extent[0]) - 0.35), sz * (float(extent[1]) - 0.35)
            builder.object(x, z, 0.3, height)
    return np.asarray(extent - width / 2)


def _lights(rng: np.random.Generator, extent: _Vector, height: float) -> Lights:
    """Create daylight from a random side and lamps under the ceiling."""
    count = 4
    tint = rng.uniform(0.9, 1.1, 3)
    direction = rng.normal(size=3)
    direction[1] = -abs(direction[1]) - 0.5
    position = np.stack(
        [
            rng.uniform(-0.9, 0.9, count) * extent[0],
            np.full(count, -0.9 * height),
            rng.uniform(-0.9, 0.9, count) * extent[1],
        ],
        axis=-1,
    )
    return Lights(
        ambient=rng.uniform(0.45, 0.65) * tint,
        sun_direction=direction / np.linalg.norm(direction),
        sun=rng.uniform(0.1, 0.35) * rng.uniform(0.9, 1.1, 3),
        position=position,
        power=rng.uniform(0.2, 0.8, (count, 1)) * rng.uniform(0.85, 1.15, (count, 3)),
    )


def _colour(hue: float, saturation: float, value: float) -> _Vector:
    """Convert hue, saturation and value, all in [0, 1] (hue wraps), to RGB."""
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6.0) % 6.0
    return np.asarray(value - value * saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0))
