"""Cameras and clouds for the tests, independent of the code under test."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

Float64 = npt.NDArray[np.float64]


def rotation(rng: np.random.Generator, angle: float | None = None) -> Float64:
    """Create a random rotation, with an angle about a random axis by Rodrigues' formula."""
    if angle is None:
        q, r = np.linalg.qr(rng.normal(size=(3, 3)))
        q *= np.sign(np.diag(r))
        return np.asarray(q * np.sign(np.linalg.det(q)))
    x, y, z = (a := rng.normal(size=3)) / np.linalg.norm(a)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k)


def cameras(rng: np.random.Generator, count: int, spread: float = 3.0) -> Float64:
    """(M, 3, 4) world to camera, anywhere."""
    out = np.empty((count, 3, 4))
    for camera in out:
        camera[:, :3] = rotation(rng)
        camera[:, 3] = -camera[:, :3] @ rng.normal(size=3) * spread
    return out


def moved(extrinsics: Float64, r: Float64, t: Float64, scale: float) -> Float64:
    """The same cameras in the world x' = scale R x + t: from [R' | t'] x' ~ camera coordinates."""
    out = np.empty_like(extrinsics)
    for new, old in zip(out, extrinsics, strict=True):
        centre = -old[:, :3].T @ old[:, 3]
        new[:, :3] = old[:, :3] @ r.T
        new[:, 3] = -new[:, :3] @ (scale * r @ centre + t)
    return out


def similarities() -> st.SearchStrategy[tuple[Float64, Float64, float]]:
    """Rotations, translations up to 10 and scales from 0.01 to 100."""

    def make(seed: int, log_scale: float) -> tuple[Float64, Float64, float]:
        rng = np.random.default_rng(seed)
        return rotation(rng), rng.uniform(-10, 10, 3), float(10**log_scale)

    return st.builds(make, st.integers(0, 2**32 - 1), st.floats(-2, 2))
