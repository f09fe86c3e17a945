"""`scene.html`: cloud, cameras, pair matrices and scene graph in one page that opens from disk.

Everything is inside the file and its content security policy forbids it any request, so it can be
mailed and archived. The viewer is our own: about 150 lines draw points with a depth buffer in plain
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
from covis.runtime.scene.scene import Scene
from covis.runtime.scene.writers.folder import SceneFolder
from covis.runtime.scene.writers.glb import frusta
from covis.runtime.scene.writers.pair_maps import pair_maps

MAX_POINTS = 150_000  # the most that one core turns smoothly; the PLY contains all points
MAX_EDGES = 4_000
_VIEWER = Path(__file__).resolve().parent.parent / "viewer"
_SCRIPTS = ("cloud.js", "matrix.js", "graph.js", "page.js")


@dataclass(frozen=True)
class PageExtras:
    """Additions to a page for a scene with known ground truth.

    Attributes:
        facts: Pairs of label and value, shown at the top.
        covisibility: (M, M) true share, in [0, 1], of view i that view j sees.
        true_frusta: (M, 5, 3) corners and centres of the true cameras, in the scene's world.
    """

    facts: tuple[tuple[str, str], ...] = ()
    covisibility: NDArray[Any] | None = None
    true_frusta: Float64 | None = None


def write_html(folder: SceneFolder) -> list[Path]:
    """Write the page of a scene, with at most 150,000 points, evenly sampled."""
    path = folder.place / "scene.html"
    path.write_text(page(folder.scene, folder.options.conf_percentile), encoding="utf-8")
    return [path]


def page(scene: Scene, conf_percentile: float, extras: PageExtras | None = None) -> str:
    """Return the HTML text of the page.

    Args:
        scene: Finite scene of M views (see `finite_part`).
        conf_percentile: Percentage of the pixels to leave out, the least confident first.
        extras: Additions for a scene with known ground truth.
    """
    script = '"use strict";\n(() => {\n' + "".join(map(_viewer_file, _SCRIPTS)) + "})();\n"
    style = _viewer_file("page.css")
    policy = (
        "default-src 'none'; img-src data:; "
        f"script-src 'sha256-{_digest(script)}'; style-src 'sha256-{_digest(style)}'"
    )
    data = json.dumps(_data(scene, conf_percentile, extras or PageExtras()), allow_nan=False)
    return Template(_viewer_file("page.html")).substitute(
        policy=html.escape(policy, quote=False),
        title=f"covis: {len(scene)} views",
        style=style,
        data=data.replace("<", "\\u003c"),  # so no name can close the block or open a comment
        script=script,
    )


def _viewer_file(name: str) -> str:
    return (_VIEWER / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return _base64(hashlib.sha256(text.encode("utf-8")).digest())


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _data(scene: Scene, conf_percentile: float, extras: PageExtras) -> dict[str, Any]:
    """Collect the page's data, in a world turned so that the cameras' mean up is up."""
    xyz, rgb, *_ = scene.point_samples(percentile=conf_percentile).thin(MAX_POINTS)
    upright = _upright(scene)
    cameras = frusta(scene, xyz)
    bulk = xyz if len(xyz) else cameras[:, 4]
    centre = np.median(np.concatenate([bulk, cameras[:, 4]]), axis=0)
    radius = float(np.percentile(np.linalg.norm(bulk - centre, axis=1), 90)) or 1.0
    true = extras.true_frusta
    return {
        "names": list(scene.names),
        "facts": [*_facts(scene, len(xyz)), *extras.facts],
        "positions": _base64((xyz @ upright.T).astype("<f4").tobytes()),
        "colours": _base64(rgb.tobytes()),
        "cameras": _rounded(cameras @ upright.T, radius),
        "trueCameras": None if true is None else _rounded(true @ upright.T, radius),
        "centre": (upright @ centre).tolist(),
        "radius": radius,
        "mostEdges": MAX_EDGES,
        "similarity": None if scene.similarity is None else _base64(_cosines(scene.similarity)),
        "anchors": [] if scene.anchors is None else scene.anchors.tolist(),
        **_maps(scene),
        "covisibility": None
        if extras.covisibility is None
        else _base64(np.rint(np.clip(extras.covisibility, 0, 1) * 255).astype(np.uint8).tobytes()),
        "thumbnails": _thumbnails(scene),
    }


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
    side = 168 if len(scene) <= 100 else 64
    urls = []
    for image in scene.images:
        pixels = image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 1) * 255)
        picture = Image.fromarray(np.ascontiguousarray(pixels.astype(np.uint8).transpose(1, 2, 0)))
        picture.thumbnail((side, side))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=80)
        urls.append(f"data:image/jpeg;base64,{_base64(stream.getvalue())}")
    return urls
