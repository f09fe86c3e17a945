"""`scene.html`: cloud, cameras, pair matrices and scene graph in one page that opens from disk.

A page can compare several runs over the same photos: a card for each, with its cameras from above,
and the cloud and the pairs of the one that is chosen.

Everything is inside the file and its content security policy forbids it any request, so it can be
mailed and archived. The viewer is our own: about 200 lines draw points with a depth buffer in plain
memory, where a 3D library would add a megabyte of third-party code and need WebGL, which servers,
remote desktops and locked-down browsers often lack.

Photo names are the user's and may be hostile: they travel as JSON with every `<` escaped, become
text nodes only, and the policy runs no script but ours.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.runtime.scene.geometry import Float64
from covis.runtime.scene.points import PointSamples, point_stream
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers.folder import SceneFolder
from covis.runtime.scene.writers.glb import frusta
from covis.runtime.scene.writers.pair_maps import pair_maps

MAX_POINTS = 150_000  # the most that one core turns smoothly; the PLY contains all points
MAX_EDGES = 4_000
_THUMBNAILS = ((100, 168), (1_000, 64))  # most views with pictures of this many pixels
_VIEWER = Path(__file__).resolve().parent.parent / "viewer"
_SCRIPTS = ("cloud.js", "plan.js", "matrix.js", "graph.js", "page.js")
_MOST_OF_ALL_RUNS = 300_000  # points; the page is then about 6 MB


@dataclass(frozen=True)
class PageExtras:
    """Additions to a page for a scene with known ground truth.

    Attributes:
        facts: Pairs of label and value, shown at the top.
        note: Sentences below the runs that a page compares.
        covisibility: (M, M) true share, in [0, 1], of view i that view j sees.
        true_frusta: (M, 5, 3) corners and centres of the true cameras, in the scene's world.
    """

    facts: tuple[tuple[str, str], ...] = ()
    note: str = ""
    covisibility: NDArray[Any] | None = None
    true_frusta: Float64 | None = None


@dataclass(frozen=True)
class PageRun:
    """One of several runs over the same photos.

    Attributes:
        scene: Finite scene of M views (see `finite_part`).
        label: Name of the run, such as "dense".
        note: What the run computes, one phrase.
        facts: Pairs of label and value, shown beside the run's cameras.
        cloud: Points to show, of which an even sample is taken; by default, those of the scene.
    """

    scene: Scene
    label: str = ""
    note: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    cloud: PointSamples | None = None

    def points(self, limit: int, conf_percentile: float) -> PointSamples:
        """Return at most `limit` points, without the least confident ones."""
        if self.cloud is not None:
            return self.cloud.thin(limit)
        return point_stream(self.scene, percentile=conf_percentile).thin(limit)


def write_html(folder: SceneFolder) -> list[Path]:
    """Write the page of a scene, with at most 150,000 points, evenly sampled."""
    path = folder.place / "scene.html"
    run = PageRun(folder.scene, cloud=folder.cloud(MAX_POINTS))
    text = comparison_page((run,), 0, folder.options.conf_percentile)
    path.write_text(text, encoding="utf-8")
    return [path]


def page(scene: Scene, conf_percentile: float, extras: PageExtras | None = None) -> str:
    """Return the HTML text of the page.

    Args:
        scene: Finite scene of M views (see `finite_part`).
        conf_percentile: Percentage of the pixels to leave out, the least confident first.
        extras: Additions for a scene with known ground truth.
    """
    return comparison_page((PageRun(scene),), 0, conf_percentile, extras)


def comparison_page(
    runs: Sequence[PageRun],
    first: int,
    conf_percentile: float,
    extras: PageExtras | None = None,
) -> str:
    """Return the HTML text of a page that compares runs over the same photos.

    Args:
        runs: Runs of the same M views, whose scenes share one world.
        first: Index of the run to show first; similarity, photos and the eye's place are its own.
        conf_percentile: Percentage of the pixels to leave out, the least confident first.
        extras: Additions for a scene with known ground truth.
    """
    script = '"use strict";\n(() => {\n' + "".join(map(_viewer_file, _SCRIPTS)) + "})();\n"
    style = _viewer_file("page.css")
    policy = (
        "default-src 'none'; img-src data:; "
        f"script-src 'sha256-{_digest(script)}'; style-src 'sha256-{_digest(style)}'"
    )
    data = _data(runs, first, conf_percentile, extras or PageExtras())
    return Template(_viewer_file("page.html")).substitute(
        policy=html.escape(policy, quote=False),
        title=f"covis: {len(runs[first].scene)} views",
        style=style,
        # With `<` escaped, no name can close the block or open a comment.
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        script=script,
    )


def _viewer_file(name: str) -> str:
    return (_VIEWER / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return _base64(hashlib.sha256(text.encode("utf-8")).digest())


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _data(
    runs: Sequence[PageRun], first: int, conf_percentile: float, extras: PageExtras
) -> dict[str, Any]:
    """Collect the page's data, in a world turned so that the cameras' mean up is up."""
    scene = runs[first].scene
    limit = min(MAX_POINTS, _MOST_OF_ALL_RUNS // len(runs))
    clouds = [run.points(limit, conf_percentile) for run in runs]
    xyz, upright = clouds[first].xyz, _upright(scene)
    cameras = frusta(scene, xyz)
    bulk = xyz if len(xyz) else cameras[:, 4]
    centre = np.median(np.concatenate([bulk, cameras[:, 4]]), axis=0)
    radius = _reach(bulk, cameras[:, 4], centre)
    true = extras.true_frusta

    def drawn(points: Float64) -> list[Any]:
        return _rounded(points @ upright.T, radius)

    return {
        "names": list(scene.names),
        "facts": list(extras.facts),
        "note": extras.note,
        "runs": [
            {
                "label": run.label,
                "note": run.note,
                "facts": list(run.facts),
                "about": _facts(run.scene, len(cloud.xyz)),
                "positions": _base64((cloud.xyz @ upright.T).astype("<f4").tobytes()),
                "colours": _base64(cloud.rgb.tobytes()),
                "cameras": drawn(_resized(frusta(run.scene, cloud.xyz), cameras)),
                "anchors": [] if run.scene.anchors is None else run.scene.anchors.tolist(),
                **_maps(run.scene),
            }
            for run, cloud in zip(runs, clouds, strict=True)
        ],
        "first": first,
        "trueCameras": None if true is None else drawn(_resized(true, cameras)),
        "centre": (upright @ centre).tolist(),
        "radius": radius,
        "yaw": _yaw(cameras @ upright.T),
        "mostEdges": MAX_EDGES,
        "similarity": None if scene.similarity is None else _base64(_cosines(scene.similarity)),
        "covisibility": None
        if extras.covisibility is None
        else _base64(np.rint(np.clip(extras.covisibility, 0, 1) * 255).astype(np.uint8).tobytes()),
        "thumbnails": _thumbnails(scene),
    }


def _reach(points: Float64, cameras: Float64, centre: Float64) -> float:
    """Return the radius about `centre` of most points (N, 3) and, where they are near, cameras."""
    most = float(np.percentile(np.linalg.norm(points - centre, axis=1), 90))
    farthest = float(np.max(np.linalg.norm(cameras - centre, axis=1)))
    return max(most, min(farthest, 2 * most)) or 1.0


def _yaw(cameras: Float64) -> float:
    """Return the eye's direction about the vertical: that of the cameras where they share one."""
    ahead = (cameras[:, :4].mean(axis=1) - cameras[:, 4])[:, [0, 2]]
    length = np.linalg.norm(ahead, axis=1, keepdims=True)
    x, z = (ahead / np.maximum(length, 1e-12)).mean(axis=0)
    return float(np.arctan2(x, z)) if np.hypot(x, z) > 0.3 else 0.7


def _resized(cameras: Float64, like: Float64) -> Float64:
    """Return frusta (M, 5, 3) as large as others: their size is no result, and must not differ."""

    def length(frustum: Float64) -> float:
        return float(np.median(np.linalg.norm(frustum[:, 0] - frustum[:, 4], axis=1)))

    tips = cameras[:, 4:]
    resized: Float64 = tips + (cameras - tips) * (length(like) / (length(cameras) or 1.0))
    return resized


def _maps(scene: Scene) -> dict[str, Any]:
    """Return the maps of view pairs, and the index of the one to show first: of most layers."""
    maps = pair_maps(scene)
    return {
        "maps": [
            {"label": each.label, "anchors": each.anchors, "levels": _base64(_packed(each.level))}
            for each in maps
        ],
        "firstMap": max(range(len(maps)), key=lambda index: maps[index].layers, default=0),
    }


def _packed(level: NDArray[np.int8]) -> bytes:
    """Pack levels of two bits, four to a byte from the lowest bits upward."""
    first, *others = np.resize(level.astype(np.uint8), (-(-level.size // 4), 4)).T
    for place, more in enumerate(others, 1):
        first = first | (more << np.uint8(2 * place))
    return first.tobytes()


def _cosines(similarity: NDArray[Any]) -> bytes:
    """Encode [-1, 1] as 0 to 65534: exact to 2e-5, in a quarter of the bytes of decimals."""
    return (
        np.rint((np.clip(similarity.astype(np.float64), -1, 1) + 1) * 32767).astype("<u2").tobytes()
    )


def _rounded(points: Float64, radius: float) -> list[Any]:
    """Convert to nested lists, with enough digits for a thousandth of a pixel."""
    step = radius * 1e-6
    nested: list[Any] = (np.round(points / step) * step).tolist()
    return nested


def _upright(scene: Scene) -> Float64:
    """Return the rotation (3, 3) of the cameras' mean down to +y; identity where undefined.

    Rodrigues' formula for the rotation between two unit vectors.
    """
    down = scene.extrinsics[:, 1, :3].astype(np.float64).mean(axis=0)
    length = float(np.linalg.norm(down))
    if length < 1e-3:
        return np.eye(3)
    down = down / length
    cosine = float(down[1])
    if cosine < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    axis = np.cross(down, [0.0, 1.0, 0.0])
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation: Float64 = np.eye(3) + skew + skew @ skew / (1 + cosine)
    return rotation


def _facts(scene: Scene, points: int) -> list[tuple[str, str]]:
    facts = [("views", str(len(scene))), ("points shown", f"{points:,}")]
    report = scene.sparsity
    if report is not None:
        computed = f"{report.attention_work:.1%} of dense ({report.selector})"
        facts.append(("attention computed", computed))
    if report is not None and report.layers and report.schedule:
        facts.append(("layers", report.schedule.replace(":", " ")))
    if scene.anchors is not None:
        facts.append(("anchors", str(len(scene.anchors))))
    facts.append(("lengths", "metres" if scene.metric else "of the scene's own scale"))
    return facts


def _thumbnails(scene: Scene) -> Sequence[str] | None:
    """Encode a small JPEG of each view as a data URL; the more views, the smaller."""
    from PIL import Image

    if scene.images is None:
        return None
    side = next((side for most, side in _THUMBNAILS if len(scene) <= most), 32)
    urls = []
    for view in scene.walk():
        image = scene.images[view]
        pixels = image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 1) * 255)
        picture = Image.fromarray(np.ascontiguousarray(pixels.astype(np.uint8).transpose(1, 2, 0)))
        picture.thumbnail((side, side))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=80)
        urls.append(f"data:image/jpeg;base64,{_base64(stream.getvalue())}")
    return urls
