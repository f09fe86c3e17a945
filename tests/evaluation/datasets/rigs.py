"""Writers of tiny datasets of camera rigs: a rectified stereo pair, and cameras around a person.

Like those of `layouts`, they know the datasets' conventions from their descriptions and nothing of
the readers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from covis.synthetic import SceneSpec, build, camera_path
from covis.synthetic.cameras import Cameras
from tests.evaluation.datasets.layouts import Float64, H, Known, W, photographed, save_png
from tests.runtime.photos.videos import write_video

BASELINE = 0.075
LENS = (-0.05, 0.15, 0.001, -0.002, 0.03)  # k1 k2 p1 p2 k3
WINDOW = (3, 2)  # left and top of the part of the sensor that a Qualisys camera records


def known_pair(height: int = H, width: int = W) -> Known:
    """A studio seen by a left camera and by one that stands `BASELINE` to the right of it."""
    world = build(SceneSpec(1_000_002, "studio"))
    left = camera_path(world, 2, "orbit").extrinsics[0]
    right = left.copy()
    right[0, 3] -= BASELINE
    cameras = Cameras(np.stack([left, right]), np.full(2, 1.0))
    return photographed(world, cameras, height, width)


def write_stereodemo(root: Path, scene: Known) -> None:
    """`datasets/oak-d` with the pair `desk`, and `datasets/middlebury_2014/Piano`."""
    write_pair(root / "datasets" / "oak-d", "desk_left", "desk_right", scene)
    write_pair(root / "datasets" / "middlebury_2014" / "Piano", "im0", "im1", scene)


def write_pair(home: Path, left: str, right: str, scene: Known) -> None:
    """Two photos and their calibration, whose pixels have their centres at whole numbers."""
    height, width = scene.images.shape[1:3]
    k = scene.intrinsics[0]
    calibration = {
        "width": width,
        "height": height,
        "baseline_meters": BASELINE,
        "fx": k[0, 0],
        "fy": k[1, 1],
        "cx0": k[0, 2] - 0.5,
        "cx1": scene.intrinsics[1, 0, 2] - 0.5,
        "cy": k[1, 2] - 0.5,
        "depth_range": [1.0, 5.0],
        "left_image_rect_normalized": [0, 0, 1, 1],
    }
    save_png(home / f"{left}.png", scene.images[0])
    save_png(home / f"{right}.png", scene.images[1])
    (home / "stereodemo_calibration.json").write_text(json.dumps(calibration))


def shown_at(rays: Float64, lens: Sequence[float] = LENS) -> Float64:
    """Where a lens shows rays (..., 2), by OpenCV's documentation ("Camera Calibration")."""
    k1, k2, p1, p2, k3 = lens
    x, y = rays[..., 0], rays[..., 1]
    r = np.hypot(x, y)
    radial = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6
    u = x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2)
    v = y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y
    return np.stack([u, v], axis=-1)


def rays_at(shown: Float64, lens: Sequence[float] = LENS) -> Float64:
    """The rays that a lens shows there, by fixed-point iteration."""
    rays = shown.copy()
    for _ in range(100):
        rays = rays - (shown_at(rays, lens) - shown)
    np.testing.assert_allclose(shown_at(rays, lens), shown, atol=1e-9)
    return rays


def through_lens(
    image: npt.NDArray[np.uint8], intrinsics: Float64, lens: Sequence[float] = LENS
) -> npt.NDArray[np.uint8]:
    """A pinhole's image as a camera with this lens would show it: the nearest pixel of each ray."""
    height, width = image.shape[:2]
    focal, center = intrinsics[[0, 1], [0, 1]], intrinsics[:2, 2]
    v, u = np.mgrid[:height, :width] + 0.5
    rays = rays_at((np.stack([u, v], axis=-1) - center) / focal, lens)
    column, row = np.floor(rays * focal + center).astype(int).transpose(2, 0, 1)
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    out = np.zeros_like(image)
    out[inside] = image[row[inside], column[inside]]
    return out


def write_pose2sim(root: Path, scene: Known, *, kind: str = "qualisys") -> None:
    """Session `Demo_Single` with videos, session `Demo_Batch` with the trial `Trial_1`."""
    for session, trial in (("Demo_Single", "."), ("Demo_Batch", "Trial_1")):
        calibration = root / session / "calibration"
        calibration.mkdir(parents=True)
        if kind == "qualisys":
            (calibration / "Calib.qca.txt").write_text(qualisys(scene))
        else:
            (calibration / "Calib_scene.toml").write_text(toml(scene))
        videos = root / session / trial / "videos"
        videos.mkdir(parents=True)
        for i, image in enumerate(scene.images):
            seen = through_lens(image, scene.intrinsics[i])
            write_video(videos / f"cam{i + 1:02d}.mp4", [seen, 255 - seen])


def toml(scene: Known, lens: Sequence[float] = LENS) -> str:
    """Pose2Sim's calibration: OpenCV's pixels, Rodrigues vectors, world to camera, metres."""
    text = ""
    height, width = scene.images.shape[1:3]
    for i, (k, e) in enumerate(zip(scene.intrinsics, scene.extrinsics, strict=True)):
        matrix = (k - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]).tolist()
        text += (
            f'[cam{i + 1:02d}]\nname = "cam{i + 1:02d}"\nsize = [{float(width)}, {float(height)}]\n'
            f"matrix = {matrix}\ndistortions = {list(lens)}\n"
            f"rotation = {Rotation.from_matrix(e[:, :3]).as_rotvec().tolist()}\n"
            f"translation = {e[:, 3].tolist()}\nfisheye = false\n\n"
        )
    return text + "[metadata]\nadjusted = false\nerror = 0.0\n"


def qualisys(scene: Known, lens: Sequence[float] = LENS) -> str:
    """Qualisys' calibration, last camera first, with one camera that sees markers alone.

    Its rows: the camera's axes right, up and backward. Its place in millimetres; focal lengths and
    centres on the sensor in 64ths of a pixel, the first of which has its centre at 0.
    """
    left, top = WINDOW
    height, width = scene.images.shape[1:3]
    window = f'left="{left}" top="{top}" right="{left + width - 1}" bottom="{top + height - 1}"'
    cameras = '<camera active="1" model="Miqus M3" serial="12345"/>\n'
    for i in reversed(range(len(scene.images))):
        right, down, forward, place = scene.axes(i)
        k = scene.intrinsics[i]
        rows = zip("123", (right, -down, -forward), strict=True)
        axes = " ".join(f'r{r}{c}="{v!r}"' for r, row in rows for c, v in zip("123", row.tolist(),
                        strict=True))  # fmt: skip
        x, y, z = (1000 * place).tolist()
        u, v = 64 * (k[:2, 2] - 0.5 + WINDOW)
        cameras += (
            f'<camera active="1" model="none" serial="cam{i + 1:02d}" viewrotation="0">\n'
            f"<fov_video {window}/>\n"
            f'<transform {axes} x="{x!r}" y="{y!r}" z="{z!r}"/>\n'
            f'<intrinsic focallength="9.3" focalLengthU="{64 * k[0, 0]}" '
            f'focalLengthV="{64 * k[1, 1]}" centerPointU="{u}" centerPointV="{v}" skew="0.0" '
            f'radialDistortion1="{lens[0]}" radialDistortion2="{lens[1]}" '
            f'radialDistortion3="{lens[4]}" tangentalDistortion1="{lens[2]}" '
            f'tangentalDistortion2="{lens[3]}"/>\n</camera>\n'
        )
    head = "<?xml version='1.0' encoding='ASCII'?>\n"
    return f'{head}<calibration type="regular"><cameras>\n{cameras}</cameras></calibration>\n'


def two_views(scene: Known) -> Known:
    """The first two views of a scene."""
    return replace(
        scene,
        images=scene.images[:2],
        depth=scene.depth[:2],
        points=scene.points[:2],
        intrinsics=scene.intrinsics[:2],
        extrinsics=scene.extrinsics[:2],
    )
