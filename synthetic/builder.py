"""Collect the primitives and materials of a scene, keeping the path of the cameras free."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from covis.synthetic.geometry import Primitives, Shape
from covis.synthetic.textures import Materials

_Vector = npt.NDArray[np.float64]

# Distance in metres that obstacles keep from every place where a camera may be.
CLEARANCE = 0.25
# Cameras leave the ring by at most this share, and their height range by at most these metres.
RING_SPREAD = 0.1
HEIGHT_SPREAD = 0.2


@dataclass(frozen=True)
class Part:
    """
    One primitive of a piece of furniture, in the frame of the piece (y down, floor at 0).

    Attributes:
        shape: Box, sphere or cylinder.
        centre: Coordinates of the centre.
        half: Half extents, as in `Primitives`.
        material: Index of its material.
        yaw: Rotation about y in the frame of the piece, in radians.
    """

    shape: Shape
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    material: int
    yaw: float = 0.0


Piece = list[Part]


@dataclass(frozen=True)
class Look:
    """One material; the fields are those of `Materials`, where they are described."""

    palette: _Vector
    line: _Vector
    length: float = 4.0
    height: float = 4.0
    shift: float = 0.0
    split_u: float = 0.0
    split_v: float = 0.0
    joint: float = 0.0
    vary: float = 0.0
    grain: float = 0.08
    grain_u: float = 0.5
    grain_v: float = 0.5
    decals: float = 0.0
    decal_size: float = 0.8
    edge: float = np.inf
    below: int = 0


class Builder:
    """
    Collector of primitives and their materials.

    Args:
        rng: Generator of the scene.
        ring: (2,) half extents in x and z of the cameras' ring.
        eye: Lowest and highest height of cameras above the floor, in metres.
        power: Exponent of the ring's superellipse, as in `ring_shape`.
    """

    def __init__(
        self, rng: np.random.Generator, ring: _Vector, eye: tuple[float, float], power: float
    ) -> None:
        self.rng = rng
        self.low, self.high = eye[0] - HEIGHT_SPREAD, eye[1] + HEIGHT_SPREAD
        shape = ring_shape(np.linspace(0, 2 * np.pi, 361), power) * ring
        spread = np.linspace(1 - RING_SPREAD, 1 + RING_SPREAD, 5)
        self._places = (spread[:, None, None] * shape).reshape(-1, 2)
        self._rows: list[tuple[int, list[float], list[float], float, list[int]]] = []
        self._looks: list[tuple[int, Look]] = []

    def material(self, look: Look) -> int:
        """Add a material with a seed of its own and return its index."""
        self._looks.append((int(self.rng.integers(1 << 30)), look))
        return len(self._looks) - 1

    def trimmed(self, material: int, edge: float, below: int) -> int:
        """Add a copy of a material that changes to `below` at surface coordinate v = `edge`."""
        seed, look = self._looks[material]
        self._looks.append((seed, replace(look, edge=edge, below=below)))
        return len(self._looks) - 1

    def room(self, extent: _Vector, height: float, faces: list[int]) -> None:
        """Add the enclosing room, whose floor is y = 0; it must be the first primitive."""
        half = [float(extent[0]), height / 2, float(extent[1])]
        self._rows.append((int(Shape.ROOM), [0.0, -height / 2, 0.0], half, 0.0, faces))

    def place(
        self, piece: Piece, x: float = 0.0, z: float = 0.0, yaw: float = 0.0, quarters: int = 0
    ) -> bool:
        """
        Add a piece at (x, z) if it leaves the path of the cameras free.

        Args:
            piece: Parts of the piece.
            x: Position in the world, with `z`.
            z: Position in the world.
            yaw: Rotation about y in radians.
            quarters: Further quarter turns, which keep boxes parallel to the axes.

        Returns:
            True if it was added.
        """
        rows = []
        for part in piece:
            angle = yaw + quarters * np.pi / 2
            c, s = np.cos(angle), np.sin(angle)
            if yaw == 0.0:
                c, s = float(np.round(c)), float(np.round(s))
            px, y, pz = part.centre
            centre = [x + c * px + s * pz, y, z - s * px + c * pz]
            half = list(part.half)
            if quarters % 2:
                half[0], half[2] = half[2], half[0]
            turn = yaw + part.yaw
            if part.shape is not Shape.BOX:
                turn = 0.0
            rows.append((int(part.shape), centre, half, turn, [part.material] * 6))
        if any(self._blocks_cameras(centre, half, turn) for _, centre, half, turn, _ in rows):
            return False
        self._rows += rows
        return True

    def _blocks_cameras(self, centre: list[float], half: list[float], yaw: float) -> bool:
        """Return True if the bounding box comes too near to a place where a camera may be."""
        top, bottom = -centre[1] + half[1], -centre[1] - half[1]
        if top < self.low - CLEARANCE or bottom > self.high + CLEARANCE:
            return False
        x, z = (self._places - [centre[0], centre[2]]).T
        c, s = np.cos(yaw), np.sin(yaw)
        dx = np.maximum(np.abs(c * x - s * z) - half[0], 0.0)
        dz = np.maximum(np.abs(s * x + c * z) - half[2], 0.0)
        return bool(np.hypot(dx, dz).min() < CLEARANCE)

    def primitives(self) -> Primitives:
        """Return the primitives added so far."""
        shape, centre, half, yaw, material = zip(*self._rows, strict=True)
        return Primitives(
            np.array(shape, np.int64),
            np.array(centre, np.float64),
            np.array(half, np.float64),
            np.array(yaw, np.float64),
            np.array(material, np.int64),
        )

    def materials(self) -> Materials:
        """Return the materials added so far."""
        seeds, looks = zip(*self._looks, strict=True)
        columns = {
            name: np.stack([np.asarray(getattr(look, name), np.float64) for look in looks])
            for name in Look.__dataclass_fields__
            if name != "below"
        }
        below = np.array([look.below for look in looks], np.int64)
        return Materials(seed=np.array(seeds, np.int32), below=below, **columns)


def ring_shape(angle: _Vector, power: float) -> _Vector:
    """Return x and z (M, 2) on the unit superellipse: power 1 a circle, towards 0 a square."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([np.sign(c) * np.abs(c) ** power, np.sign(s) * np.abs(s) ** power], axis=-1)
