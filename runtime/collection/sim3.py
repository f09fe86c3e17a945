"""Lie group Sim(3) in batches: exponential, logarithm, adjoint and Jacobians.

A similarity is the matrix M = [[s R, t], [0, 1]]. Its tangent vector is (tau, omega, lambda), (7,):
translation part, rotation vector in radians, logarithm of the scale; exp of it has the generator
[[lambda I + [omega]x, tau], [0, 0]]. Source: Eade, "Lie groups for 2D and 3D transformations",
2013, section 6, and Strasdat, "Local accuracy and global consistency for efficient visual SLAM",
2012, appendix. Instead of their case distinctions, functions of lambda I + [omega]x are taken on
its eigenvalues: lambda along the axis, lambda +- i |omega| across.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.runtime.scene.geometry import Float64, rotation_to_quaternion
from covis.runtime.scene.similarity import Similarity, nearest_rotation

# Terms of the Jacobian's series: exact in float64 for rotations up to a half turn.
_TERMS = 30


def matrices(similarities: Sequence[Similarity]) -> Float64:
    """Return similarities as matrices (N, 4, 4)."""
    out = np.zeros((len(similarities), 4, 4))
    for matrix, motion in zip(out, similarities, strict=True):
        matrix[:3, :3] = motion.scale * motion.rotation
        matrix[:3, 3] = motion.translation
        matrix[3, 3] = 1.0
    return out


def similarity(matrix: Float64) -> Similarity:
    """Return one matrix (4, 4) as a similarity, free of the rounding of its rotation."""
    scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
    return Similarity(scale, nearest_rotation(matrix[:3, :3]), matrix[:3, 3].copy())


def invert(motion: Float64) -> Float64:
    """Invert matrices (..., 4, 4)."""
    square = np.cbrt(np.linalg.det(motion[..., :3, :3]))[..., None, None] ** 2
    out = np.zeros_like(motion)
    out[..., :3, :3] = np.swapaxes(motion[..., :3, :3], -1, -2) / square
    out[..., :3, 3:] = -out[..., :3, :3] @ motion[..., :3, 3:]
    out[..., 3, 3] = 1.0
    return out


def exponential(vectors: Float64) -> Float64:
    """Return exp of tangent vectors (N, 7) as matrices (N, 4, 4)."""
    tau, omega, lam = vectors[:, :3], vectors[:, 3:6], vectors[:, 6]
    angle = np.linalg.norm(omega, axis=-1)
    axis = omega / np.where(angle > 0.0, angle, 1.0)[:, None]
    across = lam + 1j * angle
    out = np.zeros((len(vectors), 4, 4))
    out[:, :3, :3] = _function(np.exp(lam), np.exp(across), axis)
    mean = _function(_mean_exp(lam + 0j).real, _mean_exp(across), axis)
    out[:, :3, 3] = np.einsum("nij,nj->ni", mean, tau)
    out[:, 3, 3] = 1.0
    return out


def logarithm(motion: Float64) -> Float64:
    """Return tangent vectors (N, 7) of matrices (N, 4, 4), with rotations up to a half turn."""
    scale = np.cbrt(np.linalg.det(motion[:, :3, :3]))
    q = rotation_to_quaternion(motion[:, :3, :3] / scale[:, None, None])
    sine = np.linalg.norm(q[:, :3], axis=-1)
    angle = 2 * np.arctan2(sine, q[:, 3])
    axis = q[:, :3] / np.where(sine > 0.0, sine, 1.0)[:, None]
    lam = np.log(scale)
    inverse = _function(1 / _mean_exp(lam + 0j).real, 1 / _mean_exp(lam + 1j * angle), axis)
    tau = np.einsum("nij,nj->ni", inverse, motion[:, :3, 3])
    return np.concatenate([tau, angle[:, None] * axis, lam[:, None]], axis=1)


def adjoint(motion: Float64) -> Float64:
    """Return the adjoints Ad (N, 7, 7) of matrices (N, 4, 4): M exp(x) M^-1 = exp(Ad x)."""
    linear, t = motion[:, :3, :3], motion[:, :3, 3]
    rotation = linear / np.cbrt(np.linalg.det(linear))[:, None, None]
    out = np.zeros((len(motion), 7, 7))
    out[:, :3, :3] = linear
    out[:, :3, 3:6] = _cross(t) @ rotation
    out[:, :3, 6] = -t
    out[:, 3:6, 3:6] = rotation
    out[:, 6, 6] = 1.0
    return out


def left_jacobian(vectors: Float64) -> Float64:
    """Return J (N, 7, 7) with exp(x + d) = exp(J d) exp(x) to first order; the right one is J(-x).

    The series of ad(x)^k / (k + 1)!.
    """
    small = np.zeros((len(vectors), 7, 7))
    turn = _cross(vectors[:, 3:6])
    small[:, :3, :3] = turn + vectors[:, 6, None, None] * np.eye(3)
    small[:, :3, 3:6] = _cross(vectors[:, :3])
    small[:, :3, 6] = -vectors[:, :3]
    small[:, 3:6, 3:6] = turn
    total = np.broadcast_to(np.eye(7), small.shape)
    for k in range(_TERMS, 0, -1):
        total = np.eye(7) + small @ total / (k + 1)
    return np.asarray(total)


def _mean_exp(z: NDArray[Any]) -> NDArray[Any]:
    """Return (exp(z) - 1) / z of complex z (N,): the mean of exp over the way from 0 to z."""
    zero = z == 0
    return np.where(zero, 1.0, np.expm1(z) / np.where(zero, 1.0, z))


def _function(along: Float64, across: NDArray[Any], axis: Float64) -> Float64:
    """Return the matrices (N, 3, 3) with these eigenvalues along the axis (N, 3), and across it."""
    outer = axis[:, :, None] * axis[:, None, :]
    plane = np.eye(3) - outer
    real, imaginary = across.real[:, None, None], across.imag[:, None, None]
    return along[:, None, None] * outer + real * plane + imaginary * _cross(axis)


def _cross(vectors: Float64) -> Float64:
    """Return the matrices (N, 3, 3) of the cross product with vectors (N, 3)."""
    out = np.zeros((len(vectors), 3, 3))
    x, y, z = vectors.T
    out[:, 0, 1], out[:, 0, 2], out[:, 1, 2] = -z, y, -x
    out[:, 1, 0], out[:, 2, 0], out[:, 2, 1] = z, -y, x
    return out
