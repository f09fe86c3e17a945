"""Draw conventions.svg with the project's own projection.

    python docs/reference/conventions_picture.py

What the picture claims of axes, pixels and depths is therefore what the code does.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import ArrayLike

from covis.engines.bundle.pixel_rule import PixelRule
from covis.runtime.photos.preprocess import transform_for
from covis.runtime.scene import geometry
from covis.runtime.scene.geometry import Float64

WIDTH, HEIGHT = 980, 440
INK, RED, GREEN, BLUE, GREY, GOLD = "#222", "#c0392b", "#27893c", "#2364aa", "#9aa0a6", "#b8860b"


class Drawing:
    """SVG elements in the order they are drawn."""

    def __init__(self) -> None:
        self.elements: list[str] = []

    def line(
        self, points: ArrayLike, colour: str = INK, width: float = 1.5, dash: str = ""
    ) -> None:
        """A polyline through 2-D points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in np.asarray(points, float))
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.elements.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" '
            f'stroke-width="{width}"{dashes}/>'
        )

    def area(self, points: ArrayLike, colour: str, opacity: float) -> None:
        """A filled polygon."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in np.asarray(points, float))
        self.elements.append(f'<polygon points="{path}" fill="{colour}" fill-opacity="{opacity}"/>')

    def arrow(self, start: ArrayLike, end: ArrayLike, colour: str, width: float = 2.5) -> None:
        """A line with a head at its end."""
        a, b = np.asarray(start, float), np.asarray(end, float)
        along = (b - a) / np.linalg.norm(b - a)
        across = np.array([-along[1], along[0]])
        self.line([a, b - 6 * along], colour, width)
        self.area([b, b - 11 * along + 4.5 * across, b - 11 * along - 4.5 * across], colour, 1)

    def dot(self, point: ArrayLike, colour: str, radius: float = 4) -> None:
        """A filled circle."""
        x, y = np.asarray(point, float)
        self.elements.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>')

    def text(
        self, point: ArrayLike, words: str, colour: str = INK, size: int = 14, anchor: str = "start"
    ) -> None:
        """One line of text, its baseline at `point`."""
        x, y = np.asarray(point, float)
        self.elements.append(
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" '
            f'text-anchor="{anchor}">{escape(words)}</text>'
        )

    def svg(self) -> str:
        """The file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'width="{WIDTH}" height="{HEIGHT}" font-family="Helvetica, Arial, sans-serif">'
        )
        background = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        return "\n".join([head, background, *self.elements, "</svg>\n"])


def draw() -> str:
    """The whole picture as SVG text."""
    drawing = Drawing()
    _camera(drawing)
    _pixels(drawing)
    _transform(drawing)
    return drawing.svg()


def _look_at(eye: ArrayLike, target: ArrayLike) -> Float64:
    """An OpenCV extrinsic that looks from `eye` to `target`, world y down."""
    e = np.asarray(eye, float)
    z = np.asarray(target, float) - e
    z /= np.linalg.norm(z)
    x = np.cross([0.0, 1.0, 0.0], z)
    x /= np.linalg.norm(x)
    rotation = np.stack([x, np.cross(z, x), z])
    return np.concatenate([rotation, -rotation @ e[:, None]], axis=1)


def _camera(drawing: Drawing) -> None:
    """A camera, its axes, its image and a point with both its depths, seen from beside it."""
    onlooker = _look_at([4.4, -2.4, -2.2], [0.25, 0.0, 1.75])
    lens = np.array([[680.0, 0, 292], [0, 680, 226], [0, 0, 1]])

    def see(points: ArrayLike) -> Float64:
        return geometry.project(np.atleast_2d(np.asarray(points, float)), lens, onlooker)[0]

    # The camera stands at the origin: its own frame is this drawing's world.
    own, image = np.eye(3, 4), np.array([[100.0, 0, 80], [0, 100, 60], [0, 0, 1]])
    frame = [[0, 0], [160, 0], [160, 120], [0, 120]]
    corners = geometry.unproject(frame, np.full(4, 1.2), image, own)
    centre, point = np.zeros(3), np.array([-0.55, -0.5, 3.4])
    pixel, z = geometry.project(point[None], image, own)
    on_image = geometry.unproject(pixel, [1.2], image, own)[0]
    foot = np.array([0.0, 0.0, z[0]])

    drawing.area(see(corners), BLUE, 0.08)
    drawing.line(see([*corners, corners[0]]), GREY)
    for corner in corners:
        drawing.line(see([centre, corner]), GREY, 1)
    drawing.line(see([centre, point]), GOLD, 2)
    drawing.line(see([[0, 0, 1.0], foot]), BLUE, 1.2, "5 4")
    drawing.line(see([foot, point]), GREY, 1.2, "5 4")
    for axis, colour, name in (
        ([0.95, 0, 0], RED, "x right"),
        ([0, 0.8, 0], GREEN, "y down"),
        ([0, 0, 1.1], BLUE, "z forward"),
    ):
        (start,), (end,) = see(centre), see(axis)
        drawing.arrow(start, end, colour)
        shift = {"x right": (6, 14), "y down": (6, 6), "z forward": (-18, 22)}[name]
        drawing.text(end + np.array(shift), name, colour)
    (c,), (p,), (i,), (f,) = see(centre), see(point), see(on_image), see(foot)
    for place, colour in ((c, INK), (p, GOLD), (i, GOLD)):
        drawing.dot(place, colour)
    drawing.text(c + np.array((-10, -2)), "camera", size=13, anchor="end")
    drawing.text(c + np.array((-10, 14)), "centre", size=13, anchor="end")
    drawing.text(p + np.array((8, -8)), "X = world point", GOLD)
    drawing.text(i + np.array((-4, -10)), "pixel (u, v)", GOLD, anchor="end")
    drawing.text(f + np.array((8, 8)), "z-depth, along the axis", BLUE)
    drawing.text(0.6 * p + 0.4 * i + np.array((-8, -6)), "ray depth", GOLD, anchor="end")
    drawing.text((20, 30), "Cameras are OpenCV's", size=17)
    drawing.text((20, 400), "X_camera = R X + t,   extrinsics [R | t] (3, 4): world to camera")
    drawing.text((20, 424), "(u, v, 1) · z = K X_camera,   z = the depth maps of a Scene")


def _pixels(drawing: Drawing) -> None:
    """The pixel grid: where (0, 0), the first centre and (W, H) are."""
    columns, rows, side = 6, 4, 34
    origin = np.array([610.0, 66.0])
    for column in range(columns + 1):
        drawing.line(origin + side * np.array([[column, 0], [column, rows]]), GREY, 1)
    for row in range(rows + 1):
        drawing.line(origin + side * np.array([[0, row], [columns, row]]), GREY, 1)
    centers = geometry.pixel_centers(rows, columns).reshape(-1, 2)
    for center in centers:
        drawing.dot(origin + side * center, GREY, 1.8)
    drawing.dot(origin, INK)
    drawing.text(origin + np.array((-6, -8)), "(0, 0)", anchor="end")
    drawing.dot(origin + side * centers[0], RED)
    drawing.text(origin + side * centers[0] + np.array((-30, 5)), "(0.5, 0.5)", RED, anchor="end")
    corner = origin + side * np.array([columns, rows])
    drawing.dot(corner, INK)
    drawing.text(corner + np.array((8, 16)), "(W, H)")
    middle = origin + side * np.array([columns, rows]) / 2
    drawing.dot(middle, BLUE)
    drawing.text(middle + np.array((7, -6)), "(W/2, H/2)", BLUE)
    drawing.arrow(origin + np.array((60, -12)), origin + np.array((130, -12)), INK, 1.5)
    drawing.text(origin + np.array((136, -7)), "u")
    drawing.arrow(origin + np.array((-16, 60)), origin + np.array((-16, 130)), INK, 1.5)
    drawing.text(origin + np.array((-20, 146)), "v")
    drawing.text((590, 30), "Pixels have their centres at + 0.5", size=17)


def _transform(drawing: Drawing) -> None:
    """A portrait photo, resized and cropped to the model's image, to scale."""
    photo, rule = (640, 480), PixelRule("vggt_crop", 392, 518)
    t = transform_for(rule, *photo)
    drawing.text((590, 246), "The model sees a resized, cropped photo", size=17)
    scale = 0.2
    left, right = np.array([600.0, 264.0]), np.array([780.0, 290.0])

    def box(width: float, height: float, offset: Iterable[float] = (0, 0)) -> Float64:
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height], [0, 0]])
        return (corners + np.asarray(list(offset))) * scale

    height, width = photo
    drawing.line(left + box(width, height), INK)
    resized = box(width * t.scale[0], height * t.scale[1], t.offset)
    drawing.line(right + resized, GREY, 1.2, "5 4")
    canvas = box(rule.width, rule.height)
    drawing.area(right + canvas, BLUE, 0.08)
    drawing.line(right + canvas, BLUE)
    kept = t.pixels_to_original(canvas / scale) * scale
    drawing.area(left + kept, BLUE, 0.08)
    drawing.line(left + kept, BLUE, 1.2, "5 4")
    drawing.arrow(left + np.array((104, 66)), right + np.array((-8, 40)), INK, 1.5)
    drawing.text(left + np.array((0, 146)), f"original {width} x {height}", size=13)
    drawing.text(right + np.array((112, 30)), "model", BLUE, 13)
    drawing.text(right + np.array((112, 48)), f"{rule.width} x {rule.height}", BLUE, 13)
    (sx, sy), (ox, oy) = t.scale, t.offset
    drawing.text((600, 432), f"u' = {sx:.3f} u + {ox:.0f},   v' = {sy:.3f} v - {-oy:.0f}", size=13)


if __name__ == "__main__":
    Path(__file__).with_suffix("").with_name("conventions.svg").write_text(draw(), encoding="utf-8")
