"""`saliency.png`: similarity of the views, and the view pairs that each regime computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import user_error
from covis.runtime.scene.writers.folder import SceneFolder
from covis.runtime.scene.writers.pair_maps import PairMap, pair_maps

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_SIDE = 640  # approximate pixels of a panel; cells are whole pixels
_MARGIN, _TOP, _GAP, _FOOT = 70, 64, 70, 92
_IN_A_ROW = 3  # panels
_INK, _MARK = (40, 40, 40), (214, 40, 31)
# Dark blue over green to yellow: lightness grows evenly, so the map also works in grey and for
# colour-blind readers.
_RAMP = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 144, 141), (94, 201, 98), (253, 231, 37)], np.float64
)
_LEVELS = np.array([(233, 236, 239), (133, 183, 235), (12, 68, 124)], np.uint8)
_LEVEL_NAMES = ("skipped", "low precision", "full precision")


def write_saliency(folder: SceneFolder) -> list[Path]:
    """Draw the similarity matrix and, beside it, the level of each pair by each regime.

    A scene from parts has no matrix of all its views, and gets no picture.

    Raises:
        CovisError: Another scene has no similarity matrix.
    """
    scene = folder.scene
    if scene.from_parts and scene.similarity is None:
        return []
    if scene.similarity is None:
        raise user_error(
            "this scene has no similarity matrix", where="--formats", hint='leave out "saliency"'
        )
    path = folder.place / "saliency.png"
    anchors = () if scene.anchors is None else tuple(scene.anchors.tolist())
    draw_saliency(scene.similarity, pair_maps(scene), anchors).save(path)
    return [path]


def draw_saliency(
    similarity: NDArray[Any], maps: Sequence[PairMap], anchors: Sequence[int] = ()
) -> Image.Image:
    """Draw the picture in RGB.

    Args:
        similarity: (M, M) cosine similarity of the views.
        maps: Maps of view pairs, a panel for each.
        anchors: Indices of the anchors, which marks above the columns point at.
    """
    from PIL import Image, ImageDraw

    M = len(similarity)
    side = M * max(_SIDE // M, 1)
    panels, across = 1 + len(maps), min(1 + len(maps), _IN_A_ROW)
    height = _TOP + side + _FOOT
    size = (2 * _MARGIN + across * (side + _GAP) - _GAP, -(-panels // across) * height)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    low = _floor_to_tenth(similarity)
    titles = ("Similarity of views (cosine)", f"marked: {len(anchors)} anchors" if anchors else "")
    _panel(picture, draw, (_MARGIN, _TOP), side, colours(similarity, low), titles, anchors)
    _colour_bar(picture, draw, _MARGIN, _TOP + side + 44, side, low)
    for number, each in enumerate(maps, 1):
        kept = int((each.level > 0).sum())
        titles = (f"Pairs computed: {kept} of {M * M} ({kept / (M * M):.1%})", each.label)
        left = _MARGIN + number % across * (side + _GAP)
        top = _TOP + number // across * height
        cells = _LEVELS[np.clip(each.level, 0, 2)]
        _panel(picture, draw, (left, top), side, cells, titles, each.anchors)
        _legend(draw, left, top + side + 44, each.level)
    return picture


def colours(similarity: NDArray[Any], low: float) -> NDArray[np.uint8]:
    """Return RGB (..., 3) of similarities (...), from `low` (darkest) to 1 (brightest)."""
    position = np.clip((np.asarray(similarity, np.float64) - low) / max(1.0 - low, 1e-9), 0.0, 1.0)
    stops = np.linspace(0.0, 1.0, len(_RAMP))
    channels = [np.interp(position, stops, _RAMP[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _floor_to_tenth(similarity: NDArray[Any]) -> float:
    return min(float(np.floor(10 * similarity.min() + 1e-6) / 10), 0.9)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _panel(
    picture: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    side: int,
    cells: NDArray[np.uint8],
    titles: tuple[str, str],
    anchors: Sequence[int],
) -> None:
    from PIL import Image

    M, (left, top) = len(cells), corner
    picture.paste(Image.fromarray(cells).resize((side, side), Image.Resampling.NEAREST), corner)
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=_INK)
    for title, height, size in zip(titles, (44, 20), (20, 14), strict=True):
        draw.text((left + side / 2, top - height), title, _INK, _font(size), anchor="mm")
    cell = side / M
    for view in anchors:
        x = left + (view + 0.5) * cell
        draw.polygon(((x - 4, top - 10), (x + 4, top - 10), (x, top - 3)), _MARK)
    for i in range(0, M, _tick_step(M)):
        middle = (i + 0.5) * cell
        draw.text((left - 8, top + middle), str(i), _INK, _font(14), anchor="rm")
        draw.text((left + middle, top + side + 6), str(i), _INK, _font(14), anchor="mt")
    draw.text((left + side / 2, top + side + 26), "view", _INK, _font(14), anchor="mt")


def _tick_step(M: int) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, ... that gives at most 16 labels."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if 16 * step * factor >= M:
                return step * factor
        step *= 10


def _colour_bar(
    picture: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, side: int, low: float
) -> None:
    from PIL import Image

    bar = np.tile(colours(np.linspace(low, 1.0, side), low), (14, 1, 1))
    picture.paste(Image.fromarray(bar), (left, top))
    draw.rectangle((left - 1, top - 1, left + side, top + 14), outline=_INK)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = low + share * (1.0 - low)
        draw.text((left + share * side, top + 20), f"{value:.3g}", _INK, _font(14), anchor="mt")


def _legend(draw: ImageDraw.ImageDraw, left: int, top: int, level: NDArray[np.int8]) -> None:
    x: float = left
    for value, (name, colour) in enumerate(zip(_LEVEL_NAMES, _LEVELS.tolist(), strict=True)):
        label = f"{name}: {int((level == value).sum())}"
        draw.rectangle((x, top, x + 14, top + 14), fill=tuple(colour), outline=_INK)
        draw.text((x + 20, top + 7), label, _INK, _font(14), anchor="lm")
        x += 44 + draw.textlength(label, _font(14))
