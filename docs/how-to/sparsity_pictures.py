"""Draw pair-maps.svg and schedules.svg with the program itself.

    python docs/how-to/sparsity_pictures.py

The maps are those that covis-mini's bundle computes for 24 photos of a room, whose cameras go once
around it (`covis demo --family studio --path loop`), and the schedules those that `auto` takes, so
the pictures show what the program does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from covis.commands.demo import demo_bundle, render_truth
from covis.engines.options import Sparsity
from covis.engines.regime import Regime
from covis.engines.schedule import default_schedule
from covis.runtime.pipeline import load
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers.saliency import colours
from covis.synthetic import write_photos

VIEWS = 24
INK, MARK, RULE = "#222", "#d6281f", "#555"
LEVELS = ("#e9ecef", "#85b7eb", "#0c447c")  # skipped, low precision, full precision
STEPS = 12  # of the similarity's colours
LEFT = 222  # of the bars
SETTINGS = {
    "self": Sparsity(selector="anchors", schedule="all:self"),
    # Cosines of covis-mini's tokens lie between 0.97 and 1, so its thresholds do too.
    "saliency=0.998": Sparsity(selector="saliency", layers="all", tau=0.998),
    "saliency=0.998, --tau-low 0.993": Sparsity(
        selector="saliency", layers="all", tau=0.998, tau_low=0.993, low_precision=True
    ),
    "anchors=3": Sparsity(selector="anchors", layers="all", anchors=3),
    "anchors=6": Sparsity(selector="anchors", layers="all", anchors=6),
    "anchors=6, evenly spaced": Sparsity(
        selector="anchors", layers="all", anchors=6, anchor_choice="uniform"
    ),
    "anchors=6, --no-own-frame": Sparsity(
        selector="anchors", layers="all", anchors=6, own_frame=False
    ),
}
MODELS = {"VGGT": 24, "pi^3": 18, "MapAnything V1": 12, "MapAnything V1.1": 8}


class Panel(NamedTuple):
    """Square of M x M cells in few colours.

    Attributes:
        title: Text above the panel.
        note: Text below the panel.
        cells: (M, M) indices into `palette`.
        palette: Colours of the cells.
        anchors: Columns to mark.
    """

    title: str
    note: str
    cells: NDArray[np.integer]
    palette: Sequence[str]
    anchors: Iterable[int] = ()


def scenes() -> dict[str, Scene]:
    """Run the shipped bundle with each of `SETTINGS`."""
    pipeline = load(demo_bundle())
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(Path(folder) / "photos", render_truth(VIEWS, None, "loop", "studio"))
        images = pipeline.load_photos(photos)
    return {name: pipeline(images, sparsity=setting) for name, setting in SETTINGS.items()}


def panels(found: dict[str, Scene]) -> list[Panel]:
    """Return the panel of the similarity, and one for the map of each scene."""
    similarity = next(iter(found.values())).similarity
    assert similarity is not None
    low = float(np.floor(10 * similarity.min()) / 10)
    ramp = colours(low + (np.arange(STEPS) + 0.5) / STEPS * (1 - low), low)
    steps = np.clip((similarity - low) / (1 - low) * STEPS, 0, STEPS - 1).astype(np.int64)
    palette = ["#" + bytes(colour).hex() for colour in ramp]
    result = [Panel("similarity", f"cosine, {low:.1f} (dark) to 1", steps, palette)]
    for name, scene in found.items():
        level = scene.pair_level
        assert level is not None
        note = f"{(level == 2).mean():.1%} of the pairs"
        if (level == 1).any():
            note = f"{(level == 2).mean():.1%}, low precision {(level == 1).mean():.1%}"
        anchors = () if scene.anchors is None else scene.anchors.tolist()
        result.append(Panel(name, note, level.astype(np.int64), LEVELS, anchors))
    return result


def draw_maps(shown: Sequence[Panel], side: int = 192, across: int = 4) -> str:
    """Return the panels in rows, as SVG text."""
    elements = []
    wide, high = side + 38, side + 66
    for index, panel in enumerate(shown):
        x, y = 14 + index % across * wide, 36 + index // across * high
        scale = side / len(panel.cells)
        elements += [
            text(x, y - 16, panel.title, weight="bold"),
            f'<g transform="translate({x} {y}) scale({scale:g})">{_cells(panel)}</g>',
            f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="none" stroke="{RULE}"/>',
            text(x, y + side + 17, panel.note),
        ]
        for view in panel.anchors:
            middle = x + (view + 0.5) * scale
            path = f"M{middle - 4:.1f} {y - 9}h8l-4 7z"
            elements.append(f'<path d="{path}" fill="{MARK}"/>')
    rows = -(-len(shown) // across)
    return svg(14 + across * wide - 10, rows * high + 10, elements)


def _cells(panel: Panel) -> str:
    """Return one path for each colour, of the runs of equal cells in each row."""
    paths = [""] * len(panel.palette)
    for row, values in enumerate(panel.cells.tolist()):
        start = 0
        for column in range(1, len(values) + 1):
            if column == len(values) or values[column] != values[start]:
                length = column - start
                paths[values[start]] += f"M{start} {row}h{length}v1h-{length}z"
                start = column
    pairs = zip(paths, panel.palette, strict=True)
    return "".join(f'<path d="{path}" fill="{colour}"/>' for path, colour in pairs if path)


def draw_schedules(cell: int = 24) -> str:
    """Return what `light` and `anchors` do in each layer of each model, as SVG text."""
    elements, y = [], 44
    for layer in range(max(MODELS.values())):
        elements.append(text(LEFT + (layer + 0.5) * cell, 30, str(layer), anchor="middle"))
    elements.append(text(14, 30, "global layer", weight="bold"))
    for model, depth in MODELS.items():
        elements.append(text(14, y + 26, model, weight="bold"))
        for light, name in ((True, "light"), (False, "anchors")):
            elements.append(text(LEFT - 8, y + 16, name, anchor="end"))
            for layer, regime in enumerate(default_schedule(depth, 25, light=light)):
                elements.append(
                    f'<rect x="{LEFT + layer * cell}" y="{y}" width="{cell - 2}" height="20" '
                    f'fill="{_colour(regime)}"/>'
                )
            y += 24
        y += 14
    x = LEFT
    for regime in (Regime("self"), Regime("anchors", anchors=10), Regime("anchors", anchors=25),
                   Regime()):  # fmt: skip
        elements.append(
            f'<rect x="{x}" y="{y}" width="14" height="14" fill="{_colour(regime)}" '
            f'stroke="{RULE}" stroke-width="0.5"/>'
        )
        elements.append(text(x + 20, y + 12, str(regime)))
        x += 130
    return svg(LEFT + max(MODELS.values()) * cell + 14, y + 28, elements)


def _colour(regime: Regime) -> str:
    if regime.kind == "anchors":
        return "#85b7eb" if regime.anchors == 10 else "#3579b8"
    return "#dde2e7" if regime.kind == "self" else "#0c2f57"


def text(x: float, y: float, words: str, anchor: str = "start", weight: str = "normal") -> str:
    """Return one line of text, its baseline at (x, y)."""
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{INK}" font-size="13" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def svg(width: int, height: int, elements: Iterable[str]) -> str:
    """Return the file."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="Helvetica, Arial, sans-serif">'
    )
    background = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join([head, background, *elements, "</svg>\n"])


if __name__ == "__main__":
    here = Path(__file__).parent
    (here / "pair-maps.svg").write_text(draw_maps(panels(scenes())), encoding="utf-8")
    (here / "schedules.svg").write_text(draw_schedules(), encoding="utf-8")
