"""Camera paths through synthetic scenes: orbits, walks, turns and loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from covis.engines.errors import user_error
from covis.synthetic.builder import HEIGHT_SPREAD, RING_SPREAD, ring_shape
from covis.synthetic.scenes import World

Path = Literal["orbit", "walk", "turn", "scatter", "loop", "arc"]
PATHS: tuple[Path, ...] = ("orbit", "walk", "turn", "scatter", "loop", "arc")

_Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cameras:
    """
    M pinhole cameras, independent of the image size.

    Attributes:
        extrinsics: (M, 3, 4) world to camera, OpenCV axes, metres.
        fov_y: (M,) vertical field of view in radians; pixels are square, the principal point is
            the image's centre.
    """

    extrinsics: _Vector
    fov_y: _Vector

    def intrinsics(self, height: int, width: int) -> _Vector:
        """Return intrinsics (M, 3, 3) in pixels; the centre of the top-left pixel is (0.5, 0.5)."""
        focal = height / 2 / np.tan(self.fov_y / 2)
        k = np.zeros((len(focal), 3, 3))
        k[:, 0, 0] = k[:, 1, 1] = focal
        k[:, 0, 2], k[:, 1, 2], k[:, 2, 2] = width / 2, height / 2, 1.0
        return k

    def __getitem__(self, index: Any) -> Cameras:
        """Select the cameras of a slice or index array."""
        return Cameras(self.extrinsics[index], self.fov_y[index])


def look_at(position: _Vector, target: _Vector, roll: float = 0.0) -> _Vector:
    """
    Return the world-to-camera matrix (3, 4) of a camera at `position` that looks at `target`.

    Args:
        position: (3,) position in the world.
        target: (3,) point in the world, not straight above or below.
        roll: Angle about the viewing direction in radians.
    """
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(np.array([0.0, 1.0, 0.0]), forward)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    rotation = np.stack([c * right + s * down, -s * right + c * down, forward])
    return np.concatenate([rotation, (-rotation @ position)[:, None]], axis=1)


def camera_path(world: World, views: int, path: Path = "orbit", purpose: int = 1) -> Cameras:
    """
    Create a seeded path of `views` cameras through the free ring of a scene.

    Args:
        world: Scene; the seed of its specification determines the path.
        views: Number of views M, at least 1.
        path: Kind of path. `orbit`: along an arc, looking at the middle; `walk`: along an arc,
            looking ahead or to a side; `turn`: turning almost in place; `scatter`: unordered places
            and directions; `loop`: once around, looking ahead. In a `loop` scene the views of
            opposite sides do not see each other; `arc`: a close orbit, along 6 to 25 % of the ring,
            whose neighbouring views share most of what they see.
        purpose: Number of the path; other numbers give other paths in the same scene.

    Raises:
        CovisError: There are no views, or the path is unknown.
    """
    if views < 1 or path not in PATHS:
        raise user_error(
            "no such camera path",
            where=f"{path}, {views} views",
            hint="use one of " + ", ".join(PATHS),
        )
    rng = world.spec.generator(purpose)
    studio = world.spec.family == "studio"
    start = rng.uniform(0, 2 * np.pi)
    direction = float(rng.choice([-1.0, 1.0]))
    step = np.arange(views) / max(views, 2)
    height = -rng.uniform(*world.eye)
    if path == "scatter":
        angle = rng.uniform(0, 2 * np.pi, views)
        heading = rng.uniform(0, 2 * np.pi, views)
    elif path == "turn":
        angle = start + rng.normal(0, 0.05, views)
        heading = rng.uniform(0, 2 * np.pi) + direction * step * rng.uniform(np.pi, 2 * np.pi)
    else:
        spans = {"orbit": (0.5, 1.9), "walk": (0.3, 1.0), "loop": (2.0, 2.0), "arc": (0.12, 0.5)}
        span = rng.uniform(*spans[path])
        angle = start + direction * step * span * np.pi + rng.normal(0, 0.02, views)
        heading = np.zeros(views)
    ring = _ring(world, angle) * rng.uniform(1 - RING_SPREAD, 1 + RING_SPREAD, (views, 1))
    bob = np.clip(rng.normal(0, 0.08, views), -HEIGHT_SPREAD, HEIGHT_SPREAD)
    position = np.stack([ring[:, 0], height + bob, ring[:, 1]], axis=-1)
    if path in ("orbit", "arc"):
        spread = {"room": 0.25, "loop": 0.25, "studio": 0.12, "objects": 0.1}[world.spec.family]
        target = world.focus + rng.normal(0, spread, (views, 3)) * [1.0, 0.5, 1.0]
    else:
        if path in ("walk", "loop"):
            ahead = _ring(world, angle + direction * 0.25) - _ring(world, angle)
            side = rng.uniform(-1.2, 1.2) if path == "walk" else rng.uniform(-0.2, 0.2)
            heading = np.arctan2(ahead[:, 0], ahead[:, 1]) + side + rng.normal(0, 0.1, views)
        offset = np.stack([np.sin(heading), rng.normal(0, 0.08, views), np.cos(heading)], axis=-1)
        target = position + offset
    roll = rng.normal(0, 0.02, views)
    extrinsics = np.stack(
        [look_at(p, t, r) for p, t, r in zip(position, target, roll, strict=True)]
    )
    return Cameras(
        extrinsics, np.full(views, np.deg2rad(60.0 if studio else rng.uniform(52.0, 68.0)))
    )


def _ring(world: World, angle: _Vector) -> _Vector:
    """
    Return x and z (M, 2) on the free ring, by arc length: 2 pi is once around.

    An ellipse in rooms, nearly a rectangle in corridors.
    """
    shape = ring_shape(np.linspace(0, 2 * np.pi, 2049), world.power) * world.ring
    length = np.cumsum(np.linalg.norm(np.diff(shape, axis=0, prepend=shape[:1]), axis=1))
    wanted = (angle / (2 * np.pi)) % 1.0 * length[-1]
    return np.stack([np.interp(wanted, length, shape[:, a]) for a in range(2)], axis=-1)
