"""Build synthetic scenes from a seed: rooms, corridors and piles of objects, with lights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from covis.engines.errors import user_error
from covis.synthetic.builder import Builder
from covis.synthetic.furnish import LOOP_WIDTH, furnish_loop, furnish_objects, furnish_room, shell
from covis.synthetic.geometry import Primitives
from covis.synthetic.textures import Materials

Family = Literal["studio", "room", "loop", "objects"]
# A family's place is part of the seed of its scenes: new names go to the end.
FAMILIES: tuple[Family, ...] = ("studio", "room", "loop", "objects")

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
        family: Family of the scene. `studio`: a room of one size, seen with one field of view;
            `room`: a room of any size, perhaps L-shaped or divided by partition walls, with
            pillars, beams, steps and furniture; `loop`: a corridor around a solid core, where
            views of opposite sides share nothing; `objects`: 5 to 12 objects close together on a
            table or on the ground of a large hall with weakly textured walls. The hues of every
            surface are random in all families: no wall can be recognised by its colour.
    """

    seed: int
    family: Family = "room"

    def __post_init__(self) -> None:
        """Reject an unknown family or a negative seed."""
        if self.family not in FAMILIES:
            raise user_error(
                "no such family of scenes", where=self.family, hint="use " + ", ".join(FAMILIES)
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
        ring: (2,) half extents in x and z of the ring that is free for cameras.
        power: Exponent of the ring's superellipse: 1 for an ellipse, towards 0 for a rectangle.
        eye: Lowest and highest height of cameras above the floor, in metres.
        focus: (3,) middle of the scene, at which cameras on an orbit look.
        height: Height of the room in metres; the floor is y = 0, the ceiling y = -height.
    """

    spec: SceneSpec
    primitives: Primitives
    materials: Materials
    lights: Lights
    ring: _Vector
    power: float
    eye: tuple[float, float]
    focus: _Vector
    height: float


def build(spec: SceneSpec) -> World:
    """Build the scene of a specification, the same on every machine."""
    rng = spec.generator()
    extent, height = _size(spec.family, rng)
    power, eye, focus = 1.0, (0.42 * height, 0.62 * height), np.array([0.0, -0.4 * height, 0.0])
    if spec.family == "loop":
        ring, power = extent - LOOP_WIDTH / 2, 0.4
    elif spec.family == "objects":
        # The cameras circle the pile, near enough to fill the picture with it.
        ring, eye = np.full(2, float(rng.uniform(1.4, 1.9))), (0.9, 1.7)
    else:
        ring = extent * 0.6
    builder = Builder(rng, ring, eye, power)
    builder.room(extent, height, shell(builder, height, weak=spec.family == "objects"))
    if spec.family == "loop":
        furnish_loop(builder, extent, height)
    elif spec.family == "objects":
        focus = furnish_objects(builder)
    else:
        furnish_room(builder, extent, height, varied=spec.family == "room")
    lights = _lights(rng, extent, height)
    parts = builder.primitives(), builder.materials(), lights
    return World(spec, *parts, ring, power, eye, focus, height)


def _size(family: Family, rng: np.random.Generator) -> tuple[_Vector, float]:
    """Return half extents (2,) in x and z, and the height, in metres."""
    if family == "studio":
        return np.array([2.6, 2.6]), 2.8
    if family == "room":
        return rng.uniform(2.3, 3.8, 2), float(rng.uniform(2.4, 3.4))
    if family == "loop":
        return rng.uniform(4.2, 5.2, 2), float(rng.uniform(2.4, 3.0))
    return rng.uniform(4.5, 7.0, 2), float(rng.uniform(3.5, 4.5))


def _lights(rng: np.random.Generator, extent: _Vector, height: float) -> Lights:
    """Create daylight from a random side and lamps under the ceiling."""
    count = 3
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
        # Lamps of higher rooms are stronger, so that the floor is as bright.
        power=(height / 2.8) ** 2
        * rng.uniform(0.2, 0.8, (count, 1))
        * rng.uniform(0.85, 1.15, (count, 3)),
    )
