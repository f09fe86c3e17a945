"""Cut of a collection: every view in one core, bounded parts, shared views, loops, scenes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from covis.engines.errors import CovisError, ExitCode
from covis.runtime.collection.cut import cut
from covis.runtime.collection.parts import Cut
from tests.runtime.collection.paths import Descriptors, circle, embedded, line

MODELS = pytest.mark.parametrize("contrast", [1.0, 0.02], ids=["wide cosines", "narrow cosines"])
ORDERED = pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])


def check(found: Cut, views: int, part_views: int) -> None:
    """Require what holds for every cut."""
    cores = np.concatenate([part.views[part.core] for part in found.parts])
    assert sorted(cores.tolist()) == list(range(views)), "every view is in exactly one core"
    for part in found.parts:
        assert 1 <= len(part) <= part_views
        assert len(set(part.views.tolist())) == len(part), "no view twice in a part"
        assert part.views.dtype == np.int64 and part.core.dtype == bool
    assert found.scene.shape == (len(found.parts),)
    pairs = set()
    for link in found.links:
        first, second = found.parts[link.first], found.parts[link.second]
        assert link.first < link.second and found.scene[link.first] == found.scene[link.second]
        common = np.intersect1d(first.views, second.views)
        np.testing.assert_array_equal(link.views, common)
        assert len(common) >= 2
        np.testing.assert_array_equal(first.views[first.rows(common)], common)
        pairs.add((link.first, link.second))
    assert len(pairs) == len(found.links), "no two links between the same parts"
    for scene in range(int(found.scene.max()) + 1):
        assert connected(found, np.flatnonzero(found.scene == scene).tolist())


def connected(found: Cut, parts: list[int]) -> bool:
    """Return whether links of kind `cut` alone connect some parts, and without a cycle."""
    pairs = [(link.first, link.second) for link in found.links if link.kind == "cut"]
    inside = [pair for pair in pairs if pair[0] in parts]
    reached = {parts[0]}
    for _ in parts:
        reached |= {p for pair in inside if reached & set(pair) for p in pair}
    return reached == set(parts) and len(inside) == len(parts) - 1


def kinds(found: Cut, kind: str) -> list[tuple[int, int]]:
    return [(link.first, link.second) for link in found.links if link.kind == kind]


# One part


@ORDERED
@pytest.mark.parametrize("views", [1, 2, 3, 20])
def test_a_small_collection_is_one_part(views: int, ordered: bool) -> None:
    found = cut(embedded(line(views, views / 10)), 20, ordered=ordered)
    check(found, views, 20)
    assert len(found.parts) == 1 and not found.links and found.parts[0].core.all()


@ORDERED
def test_one_view_more_than_a_part(ordered: bool) -> None:
    found = cut(embedded(line(21, 2.0)), 20, ordered=ordered)
    check(found, 21, 20)
    assert len(found.parts) == 2 and kinds(found, "cut") == [(0, 1)]
    assert len(found.links[0].views) == 3, "an eighth of a part, and at least three"


# Order


@MODELS
def test_parts_of_a_video_are_runs_of_consecutive_views(contrast: float) -> None:
    found = cut(embedded(line(200, 20.0), contrast=contrast), 50, ordered=True)
    check(found, 200, 50)
    assert kinds(found, "cut") == [(a, a + 1) for a in range(len(found.parts) - 1)]
    assert not kinds(found, "loop")
    for part in found.parts:
        np.testing.assert_array_equal(np.diff(part.views), 1)
    assert {len(link.views) for link in found.links} == {6}


@MODELS
def test_a_video_once_around_is_closed(contrast: float) -> None:
    found = cut(embedded(circle(200), contrast=contrast), 50, ordered=True)
    check(found, 200, 50)
    assert kinds(found, "loop") == [(0, len(found.parts) - 1)]
    (loop,) = (link for link in found.links if link.kind == "loop")
    assert {int(v) for v in loop.views} <= {*range(20), *range(180, 200)}, "views at the closing"


@MODELS
def test_a_corridor_there_and_back(contrast: float) -> None:
    there = line(120, 12.0)
    places = np.concatenate([there, there[::-1] + 0.02])
    found = cut(embedded(places, contrast=contrast), 40, ordered=True)
    check(found, 240, 40)
    loops = kinds(found, "loop")
    last = len(found.parts) - 1
    assert 2 <= len(loops) <= last // 2 + 1
    assert all(abs(a + b - last) <= 1 for a, b in loops), "parts of the same place"
    for link in found.links:
        if link.kind == "loop":
            apart = np.abs(places[link.views, 0][:, None] - places[link.views, 0])
            assert apart.max() < 4, "shared views are of one place"


def test_one_loop_for_one_crossing() -> None:
    """A figure of eight crosses itself once, in the middle, and closes at its end."""
    t = np.linspace(0.2, 2 * np.pi + 0.2, 300, endpoint=False)
    places = 4 * np.stack([np.sin(t), np.sin(2 * t)], axis=1)
    found = cut(embedded(places, 0.6), 40, ordered=True)
    check(found, 300, 40)
    parts = len(found.parts)
    loops = kinds(found, "loop")
    assert (0, parts - 1) in loops
    assert 2 <= len(loops) <= 3


@MODELS
def test_a_video_of_two_places_is_two_scenes(contrast: float) -> None:
    places = np.concatenate([line(90, 9.0), line(60, 6.0, start=500.0)])
    found = cut(embedded(places, contrast=contrast), 40, ordered=True)
    check(found, 150, 40)
    assert found.scene.max() == 1
    views = [
        sorted(v for p in np.flatnonzero(found.scene == s) for v in found.parts[p].views.tolist())
        for s in (0, 1)
    ]
    assert set(views[0]) == set(range(90)) and set(views[1]) == set(range(90, 150))


def test_a_camera_at_rest_does_not_divide_a_video() -> None:
    places = np.concatenate([line(40, 4.0), np.tile([[4.1, 0.0]], (80, 1)), line(40, 4.0, 4.2)])
    found = cut(embedded(places), 30, ordered=True)
    check(found, 160, 30)
    assert found.scene.max() == 0


# Without order


def shuffled(places: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    found: NDArray[np.float64] = places[np.random.default_rng(seed).permutation(len(places))]
    return found


@MODELS
def test_unordered_views_of_a_line_are_cut_across(contrast: float) -> None:
    places = shuffled(line(160, 16.0))
    found = cut(embedded(places, contrast=contrast), 40, ordered=False)
    check(found, 160, 40)
    extents = sorted(
        (places[p.views[p.core], 0].min(), places[p.views[p.core], 0].max()) for p in found.parts
    )
    assert all(a[1] < b[0] for a, b in pairwise(extents))
    assert not kinds(found, "loop")


@MODELS
def test_unordered_views_of_a_circle_are_closed(contrast: float) -> None:
    found = cut(embedded(shuffled(circle(200)), contrast=contrast), 50, ordered=False)
    check(found, 200, 50)
    parts = len(found.parts)
    assert len(kinds(found, "loop")) == 1 and len(found.links) == parts
    degree = np.bincount(np.ravel([(link.first, link.second) for link in found.links]))
    assert (degree == 2).all()


@MODELS
def test_unordered_views_of_a_grid(contrast: float) -> None:
    grid = np.stack(np.meshgrid(np.arange(24), np.arange(24)), axis=-1).reshape(-1, 2) * 0.3
    found = cut(embedded(shuffled(grid), contrast=contrast), 50, ordered=False)
    check(found, 576, 50)
    assert found.scene.max() == 0
    assert len(found.parts) <= 18, "as few parts as cores of 41 views allow, or a few more"
    degree = np.bincount(np.ravel([(link.first, link.second) for link in found.links]))
    assert degree.mean() > 2, "parts beside each other close loops"
    assert kinds(found, "loop")


@MODELS
@ORDERED
def test_two_scenes_and_single_photos(contrast: float, ordered: bool) -> None:
    places = np.concatenate([line(60, 6.0), line(25, 2.5, 300.0), line(1, 0, 600.0)])
    places = places if ordered else shuffled(places)
    found = cut(embedded(places, contrast=contrast), 30, ordered=ordered)
    check(found, 86, 30)
    assert found.scene.max() == 2
    for part in found.parts:
        assert np.ptp(places[part.views, 0]) < 100, "no part contains two scenes"
    sizes = [sum(len(found.parts[p].views) for p in np.flatnonzero(found.scene == s)) for s in
             range(3)]  # fmt: skip
    assert sizes[0] >= 60 and sizes[1:] == [25, 1]


def test_the_reference_view_is_in_the_middle() -> None:
    places = shuffled(line(31, 3.0))
    (part,) = cut(embedded(places, 2.0), 40, ordered=False).parts
    assert abs(places[part.views[0], 0] - 1.5) < 0.5
    assert (np.diff(part.views[1:]) > 0).all()


def test_shared_views_are_at_the_boundary() -> None:
    places = shuffled(line(60, 6.0))
    found = cut(embedded(places), 40, ordered=False)
    (link,) = found.links
    cores = [places[p.views[p.core], 0] for p in found.parts]
    edge = min(cores, key=lambda core: float(core.min())).max()
    assert np.abs(places[link.views, 0] - edge).max() < 1.8
    assert len(link.views) == 5


# Odd collections


@ORDERED
@pytest.mark.parametrize("views", [5, 64, 300])
def test_identical_photos(views: int, ordered: bool) -> None:
    same = np.tile(embedded(line(1, 0.0)), (views, 1))
    found = cut(same, 16, ordered=ordered)
    check(found, views, 16)
    assert found.scene.max() == 0


@ORDERED
def test_every_photo_twenty_times(ordered: bool) -> None:
    places = np.repeat(line(30, 6.0), 20, axis=0)
    found = cut(embedded(places), 40, ordered=ordered)
    check(found, 600, 40)
    assert found.scene.max() == 0


@ORDERED
def test_random_descriptors(ordered: bool) -> None:
    vectors = np.random.default_rng(0).normal(size=(3000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = cut(vectors, 50, ordered=ordered)
    check(found, 3000, 50)


@st.composite
def collections(draw: st.DrawFn) -> tuple[Descriptors, int]:
    """Views in a few clusters of any size, with copies."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=4))
    spread = draw(st.sampled_from([0.0, 0.01, 0.5, 5.0]))
    places = [rng.normal(rng.normal(0, 10, 2), spread, (size, 2)) for size in sizes]
    copies = draw(st.integers(1, 3))
    contrast = draw(st.sampled_from([1.0, 0.02]))
    found = embedded(np.repeat(np.concatenate(places), copies, axis=0), contrast=contrast)
    return found, draw(st.integers(4, 30))


@given(collections(), st.booleans())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_collection(collection: tuple[Descriptors, int], ordered: bool) -> None:
    descriptors, part_views = collection
    found = cut(descriptors, part_views, ordered=ordered)
    check(found, len(descriptors), part_views)


@ORDERED
@pytest.mark.parametrize("part_views", [4, 5, 6, 7, 8, 9, 17])
def test_small_parts(part_views: int, ordered: bool) -> None:
    found = cut(embedded(circle(40)), part_views, ordered=ordered)
    check(found, 40, part_views)
    assert len(found.parts) <= 40 // (part_views // 2) + 2


@pytest.mark.parametrize("overlap", [2, 5, 12, 20])
def test_an_overlap_of_choice(overlap: int) -> None:
    found = cut(embedded(line(200, 20.0)), 40, ordered=True, overlap=overlap)
    check(found, 200, 40)
    assert {len(link.views) for link in found.links} == {overlap}


@ORDERED
def test_the_same_twice(ordered: bool) -> None:
    descriptors = embedded(shuffled(circle(150)))
    first, second = (cut(descriptors, 24, ordered=ordered) for _ in range(2))
    for a, b in zip(first.parts, second.parts, strict=True):
        np.testing.assert_array_equal(a.views, b.views)
    assert [(x.first, x.second, x.kind, x.views.tolist()) for x in first.links] == [
        (x.first, x.second, x.kind, x.views.tolist()) for x in second.links
    ]


@pytest.mark.parametrize(
    ("part_views", "overlap", "message"),
    [
        (3, None, "--part-views: 3 is below 4"),
        (10, 1, r"--overlap: 1 is not in \[2, 5\]"),
        (10, 6, r"--overlap: 6 is not in \[2, 5\]"),
    ],
)
def test_options_are_checked(part_views: int, overlap: int | None, message: str) -> None:
    with pytest.raises(CovisError, match=message) as caught:
        cut(embedded(line(20, 2.0)), part_views, ordered=True, overlap=overlap)
    assert caught.value.code == ExitCode.USER


def test_no_views() -> None:
    with pytest.raises(CovisError, match="photos: there are no views"):
        cut(np.empty((0, 8), np.float32), 10, ordered=False)
