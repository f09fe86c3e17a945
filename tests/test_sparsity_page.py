"""The page that says when to use which selector: its pictures, schedules and numbers are true."""

from __future__ import annotations

import re
import runpy
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from covis.engines.errors import CovisError
from covis.engines.options import Sparsity, SparsityChanges
from covis.engines.regime import format_schedule, parse_schedule
from covis.engines.schedule import default_schedule
from tests.places import ROOT
from tests.runtime.scene.random_scene import random_scene

FOLDER = ROOT / "docs" / "how-to"
PAGE = (FOLDER / "choose-sparsity.md").read_text(encoding="utf-8")
MODELS = (ROOT / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(FOLDER / "sparsity_pictures.py"))


def test_the_picture_of_schedules_is_up_to_date(script: dict[str, Any]) -> None:
    drawn = (FOLDER / "schedules.svg").read_text(encoding="utf-8")
    assert script["draw_schedules"]() == drawn, "run python docs/how-to/sparsity_pictures.py"


def test_the_pictures_are_small() -> None:
    sizes = [(FOLDER / name).stat().st_size for name in ("pair-maps.svg", "schedules.svg")]
    assert sum(sizes) < 60_000


@pytest.mark.parametrize(("model", "depth"), [
    ("VGGT", 24), ("pi^3", 18), ("MapAnything V1", 12), ("MapAnything V1.1", 8),
])  # fmt: skip
def test_default_schedules(model: str, depth: int) -> None:
    anchors, light = (
        format_schedule(default_schedule(depth, 25, light=light)) for light in (False, True)
    )
    assert f"| {model} | {depth} | `{anchors}` | `{light}` |" in PAGE
    assert f"`{anchors}`" in MODELS


def test_shares_by_count() -> None:
    """Work of VGGT's default schedules, from the numbers of views that each regime computes."""

    def share(views: int, beside: int, light: bool) -> float:
        work = 0.0
        for regime in default_schedule(24, 25, light=light):
            kept = {"self": 1, "dense": views}.get(regime.kind, (regime.anchors or 0) + beside)
            work += min(kept, views) / views / 24
        return work

    rows = re.findall(r"^\| ([0-9,]+) \| ([0-9.]+)% \| ([0-9.]+)% \| ([0-9.]+)% \|$", PAGE, re.M)
    assert [row[0] for row in rows] == ["100", "250", "500", "1,000"]
    for count, *shown in rows:
        views = int(count.replace(",", ""))
        expected = [share(views, 5, True), share(views, 5, False), share(views, 0, False)]
        assert [float(value) for value in shown] == pytest.approx(
            np.multiply(expected, 100), abs=0.051
        )


def test_thresholds_and_defaults() -> None:
    default = Sparsity()
    assert f"| up to {default.dense_up_to} (`--dense-up-to`) | `dense` |" in PAGE
    assert f"| up to {default.light_up_to} (`--light-up-to`) | `light` |" in PAGE
    assert f"the 25 anchors, its {default.anchor_neighbours} most similar views" in PAGE


@pytest.mark.parametrize(("options", "selector"), [
    ({"anchors": 9}, "anchors"), ({"anchor_choice": "random"}, "anchors"),
    ({"anchor_seed": 3}, "anchors"), ({"own_frame": False}, "anchors"),
    ({"tau": 0.8}, "saliency"), ({"tau_low": 0.3}, "saliency"), ({"layers": "0-3"}, "saliency"),
    ({"low_precision": True}, "saliency"), ({"keep_ratio": 0.5}, "pooled"),
    ({"cdf": 0.9}, "pooled"),
    ({"keep_ratio": 0.5, "tau": 0.8}, "both"), ({"schedule": "all:self"}, "anchors"),
    ({"schedule": "all:pooled"}, "pooled"), ({"min_neighbours": 2}, "auto"),
    ({"reference": False}, "auto"), ({"order": "hilbert"}, "auto"), ({"dense_up_to": 9}, "auto"),
])  # fmt: skip
def test_table_of_what_an_option_chooses(options: dict[str, Any], selector: str) -> None:
    assert SparsityChanges(**options).apply(Sparsity()).selector == selector


def test_every_schedule_on_the_page_can_be_read() -> None:
    found = re.findall(r'--schedule "([^"]+)"', PAGE)
    assert len(found) >= 3
    for text in found:
        assert len(parse_schedule(text, 24)) == 24


def test_a_complete_sparsity_with_tau_names_the_selector() -> None:
    with pytest.raises(CovisError, match=r"give the selector, e\.g\. saliency"):
        Sparsity(tau=0.8)


def cells(group: ET.Element) -> dict[tuple[int, int], str]:
    """Return the colour of each cell that the runs of a panel cover; no cell twice."""
    found: dict[tuple[int, int], str] = {}
    for path in group.iter(f"{SVG}path"):
        for column, row, length in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", path.get("d", "")):
            for x in range(int(column), int(column) + int(length)):
                assert (int(row), x) not in found
                found[int(row), x] = path.get("fill", "")
    return found


def test_the_maps_are_drawn_as_they_are(script: dict[str, Any]) -> None:
    views = 9
    level = np.random.default_rng(1).integers(0, 3, (views, views)).astype(np.int8)
    scene = replace(random_scene(views, pair_levels=level[None]), anchors=np.array([4, 0]))
    root = ET.fromstring(script["draw_maps"](script["panels"]({"anchors=2": scene})))
    similarity, shown = root.iter(f"{SVG}g")
    assert len(cells(similarity)) == views**2
    colour = script["LEVELS"]
    assert cells(shown) == {(i, j): colour[level[i, j]] for i in range(views) for j in range(views)}
    marks = [path for path in root.findall(f"{SVG}path") if path.get("fill") == script["MARK"]]
    assert len(marks) == 2
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts[2] == "anchors=2" and str(texts[3]).startswith(f"{(level == 2).mean():.1%}")


def test_the_picture_on_the_page_shows_every_setting(script: dict[str, Any]) -> None:
    root = ET.parse(FOLDER / "pair-maps.svg").getroot()
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts[0] == "similarity" and texts[2::2] == list(script["SETTINGS"])
    for group in root.iter(f"{SVG}g"):
        assert len(cells(group)) == script["VIEWS"] ** 2
