"""Geometry that maps a photo of any size to the fixed H x W pixels of a bundle.

Each model was trained with its own image loader, and its results depend on that loader's choice of
size, crop and padding. A `PixelRule` names the loader and the size of the bundle; `place` computes
the resized size and the position of a photo. If the bundle has the `native_size` of the photos, the
result equals the loader's, pixel for pixel. At any other size the same steps lead to that size:

- `vggt_crop`: scaled to the full width, height following and rounded to whole patches; then rows
  are cropped from, or white rows added to, top and bottom alike.
- `vggt_pad`: scaled to fit inside, the shorter side rounded to whole patches; the rest is white.
- `pi3`: stretched to H x W, each axis with its own factor.
- `mapanything`: scaled to cover H x W, then cropped on both sides alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from covis.engines.errors import user_error
from covis.engines.limits import IMAGE_SIDE, PHOTO_ASPECT

RuleKind = Literal["vggt_crop", "vggt_pad", "pi3", "mapanything"]

_VGGT_SIDE = 37  # patches: 518 pixels, the side in the training of VGGT and MapAnything
_PI3_PIXELS = 255_000
_MAX_SIDE = IMAGE_SIDE.most
_MAX_ASPECT = PHOTO_ASPECT.most

# MapAnything's training sizes in patches (height, width), by the aspect ratio W / H that selects
# each. The ratios are copied from the published table; they are not quotients of the sizes.
_MAPANYTHING_SIZES: tuple[tuple[float, int, int], ...] = (
    (1.0, 37, 37),
    (1.321, 28, 37),
    (1.542, 24, 37),
    (1.762, 21, 37),
    (2.056, 18, 37),
    (3.083, 12, 37),
    (0.757, 37, 28),
    (0.649, 37, 24),
    (0.567, 37, 21),
    (0.486, 37, 18),
)


@dataclass(frozen=True)
class PixelRule:
    """The loader that a bundle's model expects, and the bundle's fixed image size.

    Attributes:
        kind: Name of the loader, see above.
        height: Image height H of the bundle in pixels, a multiple of `patch`.
        width: Image width W of the bundle in pixels, a multiple of `patch`.
        patch: Side of a patch in pixels.
    """

    kind: RuleKind
    height: int
    width: int
    patch: int = 14

    def __post_init__(self) -> None:
        if self.kind not in get_args(RuleKind):
            raise user_error(
                f"{self.kind!r} is no pixel rule",
                where="pixel rule",
                hint=f"use one of {', '.join(get_args(RuleKind))}",
            )
        if self.patch < 1:
            raise user_error(
                f"{self.patch} is no positive patch size", where="pixel rule", hint="use 14"
            )
        for name, side in (("--height", self.height), ("--width", self.width)):
            if side > _MAX_SIDE:
                raise user_error(
                    f"{side} is above {_MAX_SIDE:,} pixels", where=name, hint="models use about 500"
                )
            if side < self.patch or side % self.patch:
                below = max(side // self.patch, 1) * self.patch
                raise user_error(
                    f"{side} is no positive multiple of {self.patch}",
                    where=name,
                    hint=f"use {below} or {below + self.patch}",
                )

    @property
    def drops_alpha(self) -> bool:
        """Whether the model's own loader drops transparency; VGGT's lays it on white."""
        return self.kind in ("pi3", "mapanything")


@dataclass(frozen=True)
class Placement:
    """Size and position of a resized photo on the model's H x W canvas, in whole pixels.

    Attributes:
        height: Height to which the whole photo is resized.
        width: Width to which the whole photo is resized.
        top: Row of the canvas at which the photo's first row lies; negative if rows are cropped,
            positive if white rows are added.
        left: Column of the canvas at which the photo's first column lies, likewise.
        lanczos: Resample with Lanczos instead of bicubic.
    """

    height: int
    width: int
    top: int
    left: int
    lanczos: bool = False


def place(rule: PixelRule, height: int, width: int) -> Placement:
    """Compute size and position of a photo of `height` x `width` pixels under `rule`.

    Raises:
        CovisError: the photo is more than 100 times as long as wide, or the other way round.
    """
    H, W = rule.height, rule.width
    if max(height, width) > _MAX_ASPECT * min(height, width):
        raise user_error(
            f"{width} x {height} pixels is a strip, no photo",
            hint=f"crop it to at most {_MAX_ASPECT}:1",
        )
    if rule.kind == "pi3":
        return Placement(H, W, 0, 0, lanczos=True)
    if rule.kind == "mapanything":
        # The 1e-8 is the loader's own, so that rounding down never leaves a row uncovered.
        scale = max(W / width, H / height) + 1e-8
        h, w = math.floor(height * scale), math.floor(width * scale)
        return Placement(h, w, -((h - H) // 2), -((w - W) // 2), lanczos=scale < 1.0)
    if rule.kind == "vggt_crop" or W / width <= H / height:
        h, w = _whole_patches(height * (W / width), rule.patch), W
    else:
        h, w = H, _whole_patches(width * (H / height), rule.patch)
    return Placement(h, w, _centre(h, H), _centre(w, W))


def native_size(
    kind: RuleKind, sizes: Sequence[tuple[int, int]], patch: int = 14
) -> tuple[int, int]:
    """Compute the (H, W) that the model's loader chooses for photos of these (height, width)."""
    if not sizes:
        raise user_error("no photo, so no size to choose", hint="give at least one photo")
    side = _VGGT_SIDE * patch
    if kind == "vggt_pad":
        return side, side
    if kind == "vggt_crop":
        heights = [_whole_patches(h * (side / w), patch) for h, w in sizes]
        return max(min(h, side) for h in heights), side
    if kind == "mapanything":
        aspect = sum(w / h for h, w in sizes) / len(sizes)
        _, rows, columns = min(_MAPANYTHING_SIZES, key=lambda entry: abs(entry[0] - aspect))
        return rows * patch, columns * patch
    return _pi3_size(*sizes[0], patch)


def size_warning(rule: PixelRule, sizes: Sequence[tuple[int, int]]) -> str | None:
    """Return a warning if the bundle's size does not suit photos of these (height, width).

    The warning is given if, compared with the native size, the share of a photo that is cropped,
    the share of the canvas that is padded, or the change of the aspect ratio grows by more than
    0.1; or if the number of pixels is below half or above twice the native one. Else None.
    """
    H, W = native_size(rule.kind, sizes, rule.patch)
    if (rule.height, rule.width) == (H, W):
        return None
    harm, harm_native = _harm(rule, sizes), _harm(PixelRule(rule.kind, H, W, rule.patch), sizes)
    faults = [
        f"{share:.0%} of {what}"
        for what, share, usual in zip(_HARMS, harm, harm_native, strict=True)
        if share > usual + 0.1
    ]
    ratio = rule.height * rule.width / (H * W)
    if not 0.5 <= ratio <= 2.0:
        faults.append(f"{ratio:.2g} times the pixels that the model's own loader would use")
    if not faults:
        return None
    return (
        f"the bundle's {rule.width} x {rule.height} pixels (W x H) suit these photos badly "
        f"({'; '.join(faults)}); a bundle exported with --height {H} --width {W} would fit"
    )


_HARMS = ("a photo is cropped away", "an image is padding", "a photo's shape is stretched")


def _harm(rule: PixelRule, sizes: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
    """Compute the worst share over the photos of what is cropped, padded and stretched."""
    cropped = padded = stretched = 0.0
    for height, width in set(sizes):
        p = place(rule, height, width)
        visible = min(p.height, rule.height) * min(p.width, rule.width)
        cropped = max(cropped, 1.0 - visible / (p.height * p.width))
        padded = max(padded, 1.0 - visible / (rule.height * rule.width))
        stretch = (p.height * width) / (p.width * height)
        stretched = max(stretched, max(stretch, 1.0 / stretch) - 1.0)
    return cropped, padded, stretched


def _pi3_size(height: int, width: int, patch: int) -> tuple[int, int]:
    """Compute the whole patches nearest to 255,000 pixels at the photo's aspect, never above."""
    scale = math.sqrt(_PI3_PIXELS / (height * width))
    w, h = width * scale, height * scale
    columns, rows = max(round(w / patch), 1), max(round(h / patch), 1)
    while rows * columns * patch * patch > _PI3_PIXELS:
        # Drop a patch on the side that is too long for the photo's aspect.
        if columns > 1 and (rows == 1 or columns / rows > w / h):
            columns -= 1
        else:
            rows -= 1
    return rows * patch, columns * patch


def _whole_patches(pixels: float, patch: int) -> int:
    return max(round(pixels / patch), 1) * patch


def _centre(inner: int, outer: int) -> int:
    """Return the offset that centres `inner` in `outer`; an odd row goes to the end."""
    return (outer - inner) // 2 if inner <= outer else -((inner - outer) // 2)
