"""Queries, keys and values with the statistics published of VGGT's attention heads.

Of 384 heads, 212 were found uniform, 85 look only at the first frame, 5 only at their own, 75 at
the same few tokens from everywhere (vertical lines of the matrix), and 7 at true correspondences
(SAF3R, arXiv 2607.03612). The normalised entropy is .99 in layers 0 and 1, .93 to .96 in layers
2 to 8, .66 to .74 in layers 11 to 15.

Views stand on a ring. Each shows a window of a panorama, moved on by a quarter of the window, so
that a view overlaps the three views on each side, and the same point has the same vector in every
view that shows it. How much of the energy of keys and values is common to all tokens, to a frame or
to a piece of 64 tokens decides what a mean can stand for; these shares are parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from covis.export.ops import TokenLayout

SPECIAL = 5  # special tokens of a frame
TILE = 8  # side of a piece of 64 tokens, in patches
_OVERLAP = 4  # the width of a window, in steps from a view to the next
_SAMPLE = 256  # queries that a statistic is measured of

QKV = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Shares:
    """Shares of the energy of keys or values; they sum to 1.

    Attributes:
        common: Energy of the mean over all tokens.
        frame: Energy of the frames' means about it.
        piece: Energy of the means of 64 tokens about their frame's.
        token: Energy of the tokens about the mean of their 64. Half of it belongs to the point that
            a token shows, and half to the token alone.
    """

    common: float
    frame: float
    piece: float
    token: float

    @classmethod
    def of(cls, x: Tensor, layout: TokenLayout) -> Shares:
        """Measure tokens (B, H, S, D) whose patches are ordered by pieces, over all heads."""
        patch, _ = layout.split(x.shape[2], x.device)
        frames = layout.frames(x.shape[2])
        pieces = torch.unflatten(x[:, :, patch].double(), 2, (frames, -1, TILE**2))
        means = [pieces.mean(dim=dims, keepdim=True) for dims in ((2, 3, 4), (3, 4), (4,))]
        parts = [means[0], means[1] - means[0], means[2] - means[1], pieces - means[2]]
        energies = [float(part.square().sum(dim=-1).mean()) for part in parts]
        return cls(*(energy / sum(energies) for energy in energies))


@dataclass(frozen=True)
class Ring:
    """Views on a ring, and the source of everything random about them.

    Attributes:
        views: Number of views M.
        grid: Rows and columns of patches of a view, a multiple of 8.
        generator: Source of randomness.
        width: Head size D.
    """

    views: int
    grid: int
    generator: torch.Generator
    width: int = 64

    @property
    def layout(self) -> TokenLayout:
        return TokenLayout(SPECIAL + self.grid**2, SPECIAL)

    @property
    def similarity(self) -> NDArray[np.float64]:
        """Share of the window that two views have in common, (M, M)."""
        apart = np.abs(np.subtract.outer(np.arange(self.views), np.arange(self.views)))
        around = np.minimum(apart, self.views - apart)
        found: NDArray[np.float64] = np.maximum(0.0, 1 - around / _OVERLAP)
        return found

    def points(self) -> Tensor:
        """Return the point of the panorama that each patch shows, int64 (M, P), by pieces."""
        step = self.grid // _OVERLAP
        around = self.views * step
        columns = (torch.arange(self.views)[:, None] * step + torch.arange(self.grid)) % around
        rows = torch.arange(self.grid) * around
        return (columns[:, None, :] + rows[None, :, None]).flatten(1)[:, tile_order(self.grid)]

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal vectors (..., D)."""
        return torch.randn(*shape, self.width, generator=self.generator)

    def patches(self, shares: Shares, by_point: Tensor) -> Tensor:
        """Return vectors (M, P, D) of unit variance, composed by shares.

        Args:
            shares: Share of each part.
            by_point: Vectors of the panorama's points.
        """
        own, pieces = self.normal(self.views, self.grid**2), self.grid**2 // TILE**2
        x = math.sqrt(shares.token / 2) * (by_point[self.points()] + own)
        piece = self.normal(self.views, pieces).repeat_interleave(TILE**2, dim=1)
        x += math.sqrt(shares.common) * self.normal(1, 1)
        x += math.sqrt(shares.frame) * self.normal(self.views, 1)
        return x + math.sqrt(shares.piece) * piece

    def keys_and_values(self, keys: Shares, values: Shares) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys and values (M, T, D) with special tokens in front, and points' vectors."""
        by_point = self.normal(int(self.points().max()) + 1)
        k, v = (
            torch.cat([self.normal(self.views, SPECIAL), self.patches(shares, by_point)], dim=1)
            for shares in (keys, values)
        )
        return k, v, by_point


def tile_order(grid: int) -> Tensor:
    """Return the patches of a square grid piece by piece of 8 x 8, int64 (P,)."""
    side = grid // TILE
    raster = torch.arange(grid**2).view(side, TILE, side, TILE)
    return raster.transpose(1, 2).flatten()


def head(kind: str, ring: Ring, keys: Shares, values: Shares) -> QKV:
    """Return queries, keys and values (1, 1, S, D) of a kind of head.

    Args:
        kind: `uniform E`, E being the normalised entropy; `correspondence E`; or `first frame`,
            `own frame`, `vertical lines`, whose targets receive 90 % of the attention.
        ring: Views.
        keys, values: Shares of the energy of keys and of values.
    """
    k, v, by_point = ring.keys_and_values(keys, values)
    noise = ring.normal(*k.shape[:2])
    name, _, entropy = kind.rpartition(" ")
    if name == "correspondence":
        direction = torch.cat([noise[:, :SPECIAL], by_point[ring.points()]], dim=1)
        k[:, SPECIAL:] += by_point[ring.points()]
        q = _calibrated(k, torch.zeros_like(k), direction, _concentration, 1 - float(entropy))
    elif name == "uniform":
        q = _calibrated(k, torch.zeros_like(k), noise, _concentration, 1 - float(entropy))
    else:
        direction, code = _codes(kind, ring)
        k = k + code
        target = code.square().sum(dim=-1).flatten() > 0
        weak = _calibrated(k - code, torch.zeros_like(k), noise, _concentration, 0.01)
        q = _calibrated(k, weak, direction, _mass_on(target, kind == "own frame"), 0.9)
    return q.flatten(0, 1)[None, None], k.flatten(0, 1)[None, None], v.flatten(0, 1)[None, None]


def _codes(kind: str, ring: Ring) -> tuple[Tensor, Tensor]:
    """Return what queries look for and what the keys of their targets have in addition."""
    tokens = SPECIAL + ring.grid**2
    codes = torch.linalg.qr(torch.randn(ring.width, ring.width, generator=ring.generator))[0]
    codes = codes * math.sqrt(ring.width)
    code = torch.zeros(ring.views, tokens, ring.width)
    if kind == "own frame":
        code[:, SPECIAL:] = codes[: ring.views, None]
        return codes[: ring.views, None].expand(-1, tokens, -1), code
    if kind == "first frame":
        code[0, SPECIAL:] = codes[0]
    else:
        assert kind == "vertical lines", kind
        lines = torch.rand(ring.views, ring.grid**2, generator=ring.generator) < 0.01
        code[:, SPECIAL:] = lines[..., None] * codes[0]
    return codes[0].expand(ring.views, tokens, -1), code


Statistic = Callable[[Tensor, Tensor, int], float]
"""(weights (n, S) of some queries, their token indices, tokens of a frame) -> a share."""


def _calibrated(
    k: Tensor, q: Tensor, direction: Tensor, statistic: Statistic, target: float
) -> Tensor:
    """Return q + s x direction with the s at which a statistic that grows with it is `target`."""
    sample = torch.linspace(0, k.shape[0] * k.shape[1] - 1, _SAMPLE).long()
    keys, start, along = (x.flatten(0, 1) for x in (k, q, direction))
    low, high = 0.0, 64.0
    for _ in range(30):
        s = (low + high) / 2
        scores = (start[sample] + s * along[sample]) @ keys.T / math.sqrt(k.shape[2])
        value = statistic(torch.softmax(scores.double(), dim=-1), sample, k.shape[1])
        low, high = (s, high) if value < target else (low, s)
    return q + s * direction


def _concentration(weights: Tensor, _sample: Tensor, _frame: int) -> float:
    """Return 1 minus the normalised entropy."""
    return 1 - normalised_entropy(weights)


def normalised_entropy(weights: Tensor) -> float:
    """Return the mean entropy of attention rows (n, S), divided by log S."""
    entropy = torch.special.entr(weights).sum(dim=-1).mean()
    return float(entropy) / math.log(weights.shape[-1])


def _mass_on(target: Tensor, own_frame: bool) -> Statistic:
    """Return the statistic of the mass on target keys (S,), or on those of the query's frame."""

    def mass(weights: Tensor, sample: Tensor, frame: int) -> float:
        wanted = target.expand(len(sample), -1)
        if own_frame:
            of_key = torch.arange(len(target)) // frame
            wanted = wanted & (of_key == sample[:, None] // frame)
        return float((weights * wanted).sum(dim=-1).mean())

    return mass
