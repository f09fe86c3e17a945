"""The page of a scene: in a real browser, and by its text alone."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covis.engines.bundle.pixel_rule import PixelRule
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers import OutputOptions, write
from covis.runtime.scene.writers.html import (
    MAX_EDGES,
    MAX_POINTS,
    PageExtras,
    PageRun,
    comparison_page,
    page,
)
from covis.runtime.scene.writers.pair_maps import pair_maps
from covis.runtime.scene.writers.saliency import colours
from tests.chromium import Page, chromium_page, needs_chromium
from tests.runtime.scene.random_scene import random_scene

HOSTILE = (
    "</script><script>document.title='owned'</script>.jpg",
    "<img src=x onerror=alert(1)>.jpg",
    "\"'&lt;!--\u2028 ${title} $data.jpg",
    "javascript:alert(1)\n\udcff.jpg",
    "plain.jpg",
)
VIEWS = len(HOSTILE)


def scene_and_extras() -> tuple[Scene, PageExtras]:
    scene = random_scene(VIEWS, names=HOSTILE)
    seen = np.linspace(0, 1, VIEWS * VIEWS).reshape(VIEWS, VIEWS)
    frusta = np.random.default_rng(0).normal(size=(VIEWS, 5, 3))
    return scene, PageExtras((("<b>error</b>", "</dd><script>1</script>"),), "", seen, frusta)


@pytest.fixture(scope="module")
def text() -> str:
    scene, extras = scene_and_extras()
    return page(scene, 20.0, extras)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def block(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return dict(json.loads(found[1]))


def only_run(text: str) -> dict[str, Any]:
    (run,) = block(text)["runs"]
    return dict(run)


def test_names_never_become_markup(text: str) -> None:
    parser = _Tags()
    parser.feed(text)
    kinds = [tag for tag, _ in parser.tags]
    assert kinds.count("script") == 2 and kinds.count("img") == 2 and "b" not in kinds
    assert tuple(block(text)["names"]) == HOSTILE
    assert "$data" not in text.partition('id="data">')[0]


def test_nothing_points_outside(text: str) -> None:
    """No address but the names of XML, and a policy that forbids every request."""
    parser = _Tags()
    parser.feed(text)
    for _, attributes in parser.tags:
        assert not {"href", "action", "srcset", "style"} & attributes.keys()
        assert "src" not in attributes and not any(k.startswith("on") for k in attributes)
    addresses = set(re.findall(r"[a-z]+://[^\"' )]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}
    policy = next(a["content"] for t, a in parser.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_the_cloud_is_the_scene(text: str) -> None:
    """Same points up to one rotation, the cameras' mean down along +y; colours as they are."""
    scene, _ = scene_and_extras()
    data = only_run(text)
    xyz, rgb, _ = scene.point_cloud(percentile=20.0)
    shown = np.frombuffer(base64.b64decode(data["positions"]), "<f4").reshape(-1, 3)
    assert len(shown) == len(xyz)
    np.testing.assert_array_equal(
        np.frombuffer(base64.b64decode(data["colours"]), np.uint8).reshape(-1, 3), rgb
    )
    rotation, *_ = np.linalg.lstsq(xyz, shown.astype(np.float64), rcond=None)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
    assert np.linalg.det(rotation) > 0
    down = scene.extrinsics[:, 1, :3].mean(axis=0) @ rotation
    np.testing.assert_allclose(down / np.linalg.norm(down), [0, 1, 0], atol=1e-5)
    centres = np.array(data["cameras"])[:, 4]
    np.testing.assert_allclose(centres, scene.camera_centers() @ rotation, atol=1e-4)


def test_a_scene_without_pairs_images_or_points(tmp_path: Path) -> None:
    scene = random_scene(1, similarity=None, pair_levels=None, images=None, sparsity=None)
    empty = random_scene(1, valid=np.zeros((1, 28, 42), bool))
    for index, each in enumerate((scene, empty)):
        path, _ = write(each, tmp_path / str(index), OutputOptions(formats=("html",))).files
        text = path.read_text(encoding="utf-8")
        assert len(block(text)["names"]) == 1
    assert only_run(text)["positions"] == ""


def test_the_page_stays_small_for_many_views() -> None:
    views = 120
    text = page(random_scene(views), 20.0)
    assert len(text) < 4_000_000
    assert block(text)["mostEdges"] == MAX_EDGES < views * (views - 1) / 2


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium_page() as opened:
        yield opened


@pytest.fixture
def shown(browser: Page, text: str, tmp_path: Path) -> Page:
    path = tmp_path / "scene.html"
    path.write_text(text, encoding="utf-8")
    browser.events.clear()
    browser.open(path)
    browser.painted()
    return browser


PIXELS = """(() => { const c = document.getElementById('cloud');
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
  let drawn = 0, sum = 0;
  for (let i = 0; i < d.length; i += 4) {
    if (d[i + 3]) { drawn++; sum = (sum * 31 + d[i] + i) % 1e9; }
  }
  return [drawn, sum]; })()"""


@needs_chromium
def test_the_cloud_is_drawn_and_turns(shown: Page) -> None:
    drawn, first = shown.evaluate(PIXELS)
    assert drawn > 500
    x, y = shown.middle("#cloud")
    shown.drag((x, y), (x + 120, y + 30))
    turned, second = shown.evaluate(PIXELS)
    assert turned > 500 and second != first
    shown.mouse("mouseWheel", x, y, deltaX=0, deltaY=-300)
    shown.painted()
    closer, third = shown.evaluate(PIXELS)
    assert third != second and closer > turned
    for kind in ("mousePressed", "mouseReleased"):
        for clicks in (1, 2):
            shown.mouse(kind, x, y, button="left", clickCount=clicks)
    shown.evaluate("document.getElementById('cloud').dispatchEvent(new MouseEvent('dblclick'))")
    shown.painted()
    assert shown.evaluate(PIXELS) == [drawn, first]  # back where it began, pixel for pixel
    shown.evaluate(
        "document.getElementById('cloud').dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'ArrowLeft'}))"
    )
    shown.painted()
    assert shown.evaluate(PIXELS)[1] != first


@needs_chromium
def test_cameras_and_truth_can_be_switched(shown: Page) -> None:
    states = [shown.evaluate(PIXELS)]
    for name in ("show-cameras", "show-pairs", "show-true"):
        shown.evaluate(f"document.getElementById('{name}').click()")
        shown.painted()
        states.append(shown.evaluate(PIXELS))
    assert len({tuple(s) for s in states}) == 4


MARKS = """(() => { const c = document.getElementById('marks');
  if (c.hidden) return [];
  const d = c.getContext('2d').getImageData(0, 0, c.width, 1).data, cell = c.width / 12;
  return [...Array(12).keys()].filter(i => d[4 * Math.floor((i + 0.5) * cell) + 3] > 0); })()"""

MATRIX = """(() => { const c = document.getElementById('matrix');
  return [c.width, c.height, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]];
})()"""


@needs_chromium
def test_the_matrices_have_a_pixel_for_each_pair(shown: Page) -> None:
    scene, extras = scene_and_extras()
    assert scene.similarity is not None and scene.pair_level is not None
    low = float(np.floor(10 * scene.similarity.min() + 1e-3) / 10)
    levels = np.array([(233, 236, 239), (133, 183, 235), (12, 68, 124)])
    assert extras.covisibility is not None
    expected = [
        colours(scene.similarity, low),
        levels[scene.pair_level],
        colours(extras.covisibility, 0.0),
    ]
    names = shown.evaluate("[...document.querySelectorAll('#tabs button')].map(b => b.textContent)")
    assert names == ["Similarity", "Computed", "Truth"]
    for index, cells in enumerate(expected):
        shown.evaluate(f"document.querySelectorAll('#tabs button')[{index}].click()")
        width, height, rgba = shown.evaluate(MATRIX)
        assert (width, height) == (VIEWS, VIEWS)
        drawn = np.array(rgba).reshape(VIEWS, VIEWS, 4)
        assert (drawn[..., 3] == 255).all()
        assert np.abs(drawn[..., :3] - cells).max() <= 2  # quantised similarities


def anchored_scene() -> Scene:
    """Twelve views, of which two are anchors, under a schedule of three maps."""
    views, anchors = 12, np.array([7, 2])
    own = 2 * np.eye(views, dtype=np.int8)
    few, all_ = own.copy(), own.copy()
    few[:, anchors[:1]] = all_[:, anchors] = 2
    scene = random_scene(views)
    assert scene.sparsity is not None
    report = replace(
        scene.sparsity,
        selector="anchors",
        schedule="0:self, 1:anchors=1, 2-3:anchors=2",
        attention_work=0.17,
        layers=(0, 1, 2, 3),
    )
    return replace(
        scene,
        pair_levels=np.stack([own, few, all_]),
        layer_map=np.array([0, 1, 2, 2]),
        anchors=anchors,
        sparsity=report,
    )


@pytest.mark.parametrize("views", [1, 3, 12])
def test_levels_are_packed_four_to_a_byte(views: int) -> None:
    levels = np.random.default_rng(views).integers(0, 3, (views, views)).astype(np.int8)
    scene = random_scene(views, pair_levels=levels[None])
    (found,) = only_run(page(scene, 20.0))["maps"]
    raw = np.frombuffer(base64.b64decode(found["levels"]), np.uint8)
    unpacked = (raw[:, None] >> np.array([0, 2, 4, 6])) & 3
    np.testing.assert_array_equal(unpacked.reshape(-1)[: views**2], levels.reshape(-1))


def test_maps_name_their_layers_and_anchors() -> None:
    scene = anchored_scene()
    maps = pair_maps(scene)
    assert [each.label for each in maps] == [
        "layer 0: self", "layer 1: anchors=1", "layers 2-3: anchors=2",
    ]  # fmt: skip
    assert [each.anchors for each in maps] == [(), (7,), (7, 2)]
    run = only_run(page(scene, 20.0))
    assert run["firstMap"] == 2 and run["anchors"] == [7, 2]
    assert ["attention computed", "17.0% of dense (anchors)"] in run["about"]
    assert ["layers", "0 self, 1 anchors=1, 2-3 anchors=2"] in run["about"]


def test_a_dense_layer_has_no_map_unless_all_are_dense() -> None:
    scene = anchored_scene()
    assert scene.pair_levels is not None
    dense = np.full((1, 12, 12), 2, np.int8)
    light = replace(scene, pair_levels=np.concatenate([dense, scene.pair_levels[1:]]))
    assert [each.label for each in pair_maps(light)] == [
        "layer 1: anchors=1", "layers 2-3: anchors=2",
    ]  # fmt: skip
    all_dense = replace(
        light, pair_levels=dense, layer_map=np.zeros(2, np.int64), anchors=None, sparsity=None
    )
    assert [each.label for each in pair_maps(all_dense)] == ["layers 0-1"]


def compared_runs() -> tuple[PageRun, ...]:
    """Anchors; the same views with every pair and cameras twice as far apart; no map of pairs."""
    sparse = anchored_scene()
    dense = replace(
        sparse,
        extrinsics=sparse.extrinsics * np.array([1.0, 1.0, 1.0, 2.0]),
        pair_levels=np.full((1, 12, 12), 2, np.int8),
        layer_map=np.zeros(4, np.int64),
        anchors=None,
    )
    plain = replace(dense, pair_levels=None, layer_map=None)
    return (
        PageRun(dense, "dense", "every pair", (("AUC@30", "61.5"),)),
        PageRun(sparse, "<i>sparse</i>", "</p><script>1</script>", (("AUC@30", "60.1"),)),
        PageRun(plain, "plain", "", (("<b>AUC</b>", "</dd>"),)),
    )


@pytest.fixture(scope="module")
def compared() -> str:
    seen = np.linspace(0, 1, 144).reshape(12, 12)
    frusta = np.random.default_rng(0).normal(size=(12, 5, 3))
    return comparison_page(compared_runs(), 1, 20.0, PageExtras((), "Black: true.", seen, frusta))


def test_runs_share_one_world_and_one_size_of_cameras(compared: str) -> None:
    data = block(compared)
    dense, sparse, _ = (np.array(run["cameras"]) for run in data["runs"])
    assert data["first"] == 1 and data["runs"][0]["facts"] == [["AUC@30", "61.5"]]
    runs = compared_runs()
    centres = [run.scene.camera_centers() for run in runs[:2]]
    rotation, *_ = np.linalg.lstsq(centres[1], sparse[:, 4], rcond=None)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-4)
    np.testing.assert_allclose(dense[:, 4], centres[0] @ rotation, atol=1e-4)  # one rotation
    sizes = [
        np.median(np.linalg.norm(cameras[:, 0] - cameras[:, 4], axis=1))
        for cameras in (dense, sparse, np.array(data["trueCameras"]))
    ]
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-3)


@pytest.mark.parametrize("turn", [0.0, 1.0, -2.5])
def test_the_eye_looks_as_the_cameras_do_and_sees_them(turn: float) -> None:
    scene = random_scene(12)
    c, s = np.cos(turn), np.sin(turn)
    level = np.tile(np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]), (12, 1, 1))
    turned = np.concatenate([level, scene.extrinsics[:, :, 3:]], axis=2)
    data = block(page(replace(scene, extrinsics=turned), 20.0))
    assert data["yaw"] == pytest.approx(turn, abs=0.1)
    cameras = np.array(data["runs"][0]["cameras"])[:, 4]
    assert np.linalg.norm(cameras - data["centre"], axis=1).max() <= data["radius"] * 1.0001


def test_cameras_in_a_circle_share_no_direction() -> None:
    scene = random_scene(12)
    angle = 2 * np.pi * np.arange(12) / 12
    c, s, o = np.cos(angle), np.sin(angle), np.zeros(12)
    around = np.stack([c, o, -s, o, o + 1, o, s, o, c], axis=-1).reshape(12, 3, 3)
    turned = np.concatenate([around, scene.extrinsics[:, :, 3:]], axis=2)
    assert block(page(replace(scene, extrinsics=turned), 20.0))["yaw"] == 0.7


def test_many_runs_share_the_points_of_a_page() -> None:
    scene = random_scene(64, rule=PixelRule("vggt_crop", 56, 56))
    xyz, *_ = scene.point_cloud(percentile=0.0)
    assert len(xyz) > MAX_POINTS
    counts = [
        [len(base64.b64decode(run["positions"])) // 12 for run in block(text)["runs"]]
        for text in (
            page(scene, 0.0),
            comparison_page([PageRun(scene, str(i)) for i in range(4)], 0, 0.0),
        )
    ]
    assert counts == [[MAX_POINTS], [MAX_POINTS // 2] * 4]


CARDS = "[...document.querySelectorAll('#runs article')]"


@needs_chromium
def test_runs_can_be_chosen(browser: Page, compared: str, tmp_path: Path) -> None:
    path = tmp_path / "compared.html"
    path.write_text(compared, encoding="utf-8")
    browser.events.clear()
    browser.open(path)
    browser.painted()
    names = browser.evaluate(f"{CARDS}.map(c => c.querySelector('button').textContent)")
    assert names == ["dense", "<i>sparse</i>", "plain"]
    texts = browser.evaluate(f"{CARDS}.map(c => c.textContent)")
    assert "</p><script>1</script>" in texts[1] and "AUC@30" + "60.1" in texts[1]
    plans = browser.evaluate(f"{CARDS}.map(c => c.querySelectorAll('svg polygon').length)")
    assert plans == [24, 24, 24]  # true and estimated
    assert browser.evaluate("document.getElementById('show-true').checked")
    assert browser.complaints() == []  # reading a canvas back, as below, earns a warning
    seen = []
    runs = compared_runs()
    for index in (1, 0, 2, 1):
        browser.evaluate(f"{CARDS}[{index}].querySelector('button').click()")
        browser.painted()
        pressed = browser.evaluate(
            f"{CARDS}.map(c => c.querySelector('button').getAttribute('aria-pressed'))"
        )
        assert pressed == [str(i == index).lower() for i in range(3)]
        seen.append(browser.evaluate(PIXELS))
        options = browser.evaluate("[...document.getElementById('map').options].map(o => o.text)")
        assert options == [each.label for each in pair_maps(runs[index].scene)]
        anchors = browser.evaluate("document.querySelectorAll('#graph circle.anchor').length")
        assert anchors == (2 if index == 1 else 0)
        browser.evaluate("document.querySelectorAll('#tabs button')[1].click()")
        legend = browser.evaluate("document.getElementById('legend').textContent")
        assert ("144 of 144" in legend, "chose no pairs" in legend) == (index == 0, index == 2)
    assert seen[0] == seen[3] and seen[1] == seen[2] != seen[0]
    assert browser.evaluate("document.scripts.length") == 2
    assert not [c for c in browser.complaints() if "xception" in c]


@needs_chromium
def test_a_page_of_one_run_has_no_cards(shown: Page) -> None:
    assert shown.evaluate(f"{CARDS}.length") == 0
    assert shown.evaluate("document.getElementById('runs').hidden")
    assert not shown.evaluate("document.getElementById('show-true').checked")


@needs_chromium
def test_maps_can_be_switched_and_anchors_are_marked(browser: Page, tmp_path: Path) -> None:
    scene, path = anchored_scene(), tmp_path / "scene.html"
    path.write_text(page(scene, 20.0), encoding="utf-8")
    browser.events.clear()
    browser.open(path)
    browser.painted()
    assert scene.pair_levels is not None
    assert browser.evaluate("document.querySelectorAll('#graph circle.anchor').length") == 2
    labels = browser.evaluate("[...document.getElementById('map').options].map(o => o.text)")
    assert labels == ["layer 0: self", "layer 1: anchors=1", "layers 2-3: anchors=2"]
    assert browser.evaluate("document.getElementById('map').selectedIndex") == 2
    levels = np.array([(233, 236, 239), (133, 183, 235), (12, 68, 124)])
    for index, marked in enumerate(([], [7], [2, 7])):
        browser.evaluate(
            f"(m => {{ m.selectedIndex = {index}; m.dispatchEvent(new Event('change')); }})"
            "(document.getElementById('map'))"
        )
        browser.painted()
        _, _, rgba = browser.evaluate(MATRIX)
        shown = np.array(rgba).reshape(12, 12, 4)[..., :3]
        np.testing.assert_array_equal(shown, levels[scene.pair_levels[index]])
        assert browser.evaluate(MARKS) == marked
        either = (scene.pair_levels[index] > 0) | (scene.pair_levels[index].T > 0)
        lines = browser.evaluate("document.querySelectorAll('#graph line').length")
        assert lines == int(np.triu(either, 1).sum())
        legend = browser.evaluate("document.getElementById('legend').textContent")
        kept = int((scene.pair_levels[index] > 0).sum())
        assert legend.startswith(f"{labels[index]}: {kept} of 144 ordered pairs computed")
    browser.mouse("mouseMoved", *browser.middle("#graph circle:nth-of-type(3)"))
    name = browser.evaluate("document.getElementById('name-a').textContent")
    assert name == "2: 002.jpg (anchor 2 of 2)"
    assert not [c for c in browser.complaints() if "xception" in c]


@needs_chromium
def test_anchors_stand_out_in_the_cloud(browser: Page, tmp_path: Path) -> None:
    drawn = []
    for index, anchors in enumerate((None, np.array([7, 2]))):
        path = tmp_path / f"{index}.html"
        path.write_text(page(replace(anchored_scene(), anchors=anchors), 20.0), encoding="utf-8")
        browser.open(path)
        browser.painted()
        drawn.append(browser.evaluate(PIXELS)[0])
    assert drawn[1] > drawn[0]


@needs_chromium
def test_the_graph_has_the_kept_pairs(shown: Page) -> None:
    scene, _ = scene_and_extras()
    assert scene.pair_level is not None
    either = (scene.pair_level > 0) | (scene.pair_level.T > 0)
    edges = int(np.triu(either, 1).sum())
    assert shown.evaluate("document.querySelectorAll('#graph line').length") == edges > 0
    assert shown.evaluate("document.querySelectorAll('#graph circle').length") == VIEWS
    before = shown.evaluate(PIXELS)
    shown.mouse("mouseMoved", *shown.middle("#graph circle:nth-of-type(2)"))
    assert shown.evaluate("document.querySelectorAll('#graph circle.on').length") == 1
    shown.evaluate(
        "document.querySelectorAll('#graph circle')[1].dispatchEvent(new MouseEvent('click'))"
    )
    shown.painted()
    assert shown.evaluate(PIXELS) != before


@needs_chromium
def test_photos_name_their_view_and_lead_to_it(shown: Page) -> None:
    assert shown.evaluate("document.querySelectorAll('#photos button').length") == VIEWS
    before = shown.evaluate(PIXELS)
    shown.mouse("mouseMoved", *shown.middle("#photos button:nth-child(4)"))
    assert shown.evaluate("document.getElementById('name-a').textContent") == f"3: {HOSTILE[3]}"
    marked = "[...document.querySelectorAll('#photos button')].map(b => b.className)"
    assert shown.evaluate(marked) == ["", "", "", "on", ""]
    assert shown.evaluate("document.querySelectorAll('#photos img')[0].alt") == HOSTILE[0]
    shown.evaluate("document.querySelectorAll('#photos button')[1].click()")
    shown.painted()
    assert shown.evaluate(PIXELS) != before


@needs_chromium
def test_a_thousand_photos_are_no_row(browser: Page, tmp_path: Path) -> None:
    path = tmp_path / "many.html"
    path.write_text(page(random_scene(201), 20.0), encoding="utf-8")
    browser.open(path)
    assert browser.evaluate("document.querySelectorAll('#photos button').length") == 0
    assert browser.evaluate("document.querySelectorAll('#graph circle').length") == 201


@needs_chromium
def test_pointing_at_a_cell_names_the_pair(shown: Page) -> None:
    """Names appear as text, exactly; nothing of them ran; the photos are there."""
    scene, _ = scene_and_extras()
    assert scene.similarity is not None and scene.pair_level is not None
    shown.middle("#matrix")
    box = shown.evaluate("(b => [b.left, b.top, b.width])(matrix.getBoundingClientRect())")
    for i, j in ((0, 1), (3, 2), (4, 4)):
        at = [box[0] + (j + 0.5) / VIEWS * box[2], box[1] + (i + 0.5) / VIEWS * box[2]]
        shown.mouse("mouseMoved", *at)
        text = shown.evaluate("document.getElementById('relation').textContent")
        assert text.startswith(f"View {i} looking at view {j}; ")
        assert f"similarity {scene.similarity[i, j]:.3f}" in text
        assert ("skipped", "low precision", "full precision")[scene.pair_level[i, j]] in text
        for side, view in (("a", i), ("b", j)):
            name = shown.evaluate(f"document.getElementById('name-{side}').textContent")
            assert name == f"{view}: {HOSTILE[view]}"
            photo = f"document.getElementById('photo-{side}')"
            wide = shown.evaluate(f"(p => p.decode().then(() => p.naturalWidth))({photo})")
            assert wide == 42
    assert shown.evaluate("document.title") == f"covis: {VIEWS} views"
    facts = shown.evaluate("document.getElementById('facts').textContent")
    assert "<b>error</b></dd><script>1</script>" in facts
    assert shown.evaluate("document.scripts.length") == 2


@needs_chromium
def test_no_complaint_and_no_request(shown: Page) -> None:
    shown.mouse("mouseMoved", *shown.middle("#matrix"))
    shown.painted()
    assert shown.complaints() == []
    requests = shown.requests()
    assert requests[0].startswith("file:///")
    assert all(address.startswith(("data:", "blob:")) for address in requests[1:])


@needs_chromium
def test_the_policy_holds_in_the_browser(shown: Page) -> None:
    """Even a script that had got in could not call out, and no inline handler runs."""
    refused = shown.evaluate("fetch('http://127.0.0.1:9/x').then(() => 'sent', e => 'refused')")
    assert refused == "refused"
    violations = [c for c in shown.complaints() if "Content Security Policy" in c]
    assert violations
    shown.evaluate(
        "(() => { const b = document.createElement('button');"
        " b.setAttribute('onclick', 'document.title = 1'); document.body.append(b); b.click(); })()"
    )
    assert shown.evaluate("document.title") == f"covis: {VIEWS} views"


@needs_chromium
def test_a_damaged_page_says_so(browser: Page, text: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.html"
    path.write_text(text.replace('"names"', '"nomes"'), encoding="utf-8")
    browser.open(path)
    text = browser.evaluate("document.getElementById('error').textContent")
    assert text.startswith("This page could not be drawn")
