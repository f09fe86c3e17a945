"""Writers of tiny datasets in their published layouts, from a synthetic scene with known cameras.

They know the datasets' conventions from their descriptions and nothing of the readers: cameras are
written from axes and positions.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import trimesh
from PIL import Image
from scipy.io import savemat
from scipy.spatial.transform import Rotation

from covis.synthetic import SceneSpec, World, build, camera_path, render
from covis.synthetic.cameras import Cameras

Float64 = npt.NDArray[np.float64]
H, W = 24, 32


@dataclass(frozen=True)
class Known:
    """A rendered scene: what the readers have to give back."""

    images: npt.NDArray[np.uint8]
    depth: Float64
    points: Float64
    intrinsics: Float64
    extrinsics: Float64

    def axes(self, i: int) -> tuple[Float64, Float64, Float64, Float64]:
        """Right, down and forward of camera i, and where it stands."""
        rotation, translation = self.extrinsics[i, :, :3], self.extrinsics[i, :, 3]
        return rotation[0], rotation[1], rotation[2], -rotation.T @ translation

    def to_world(self, i: int) -> Float64:
        """Camera to world (4, 4), OpenCV axes."""
        right, down, forward, place = self.axes(i)
        return np.vstack([np.stack([right, down, forward, place], axis=1), [0, 0, 0, 1]])


def photographed(world: World, cameras: Cameras, height: int, width: int) -> Known:
    """A scene seen by some cameras, without shadows."""
    scene = render(world, cameras, height, width, shadows=False)
    images = np.round(np.asarray(scene.images).transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    return Known(
        images,
        scene.depth,
        scene.points,
        np.asarray(scene.intrinsics),
        np.asarray(scene.extrinsics),
    )


def known(views: int = 4, fov: float | None = None) -> Known:
    """A studio seen from some places."""
    world = build(SceneSpec(1_000_002, "studio"))
    cameras = camera_path(world, views, "orbit")
    if fov is not None:
        cameras = Cameras(cameras.extrinsics, np.full(views, fov))
    return photographed(world, cameras, H, W)


def save_png(path: Path, array: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def save_text(path: Path, matrix: npt.ArrayLike) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, np.asarray(matrix))


def millimetres(depth: Float64) -> npt.NDArray[np.uint16]:
    return np.round(depth * 1000).astype(np.uint16)


def write_co3d(root: Path, scene: Known, *, isotropic: bool = True) -> None:
    """Category `apple`: `110_1_2` (good), `bad_1_2` (low quality), `train_1_2` (not listed)."""
    category, frames, listed = root / "apple", [], []
    for sequence in ("110_1_2", "bad_1_2", "train_1_2"):
        for i in range(len(scene.images)):
            name = f"frame{i + 1:06d}"
            image = f"apple/{sequence}/images/{name}.png"
            depth = f"apple/{sequence}/depths/{name}.png.geometric.png"
            mask = f"apple/{sequence}/depth_masks/{name}.png"
            save_png(root / image, scene.images[i])
            half = (scene.depth[i] / 2.5).astype(np.float16)
            save_png(root / depth, half.view(np.uint16))
            known_depth = np.full((H, W), 255, np.uint8)
            known_depth[0] = 0
            save_png(root / mask, known_depth)
            frames.append(_co3d_frame(scene, i, sequence, image, depth, mask, isotropic))
            if sequence != "train_1_2":
                listed.append([sequence, i + 1, image])
    quality = {"110_1_2": 0.9, "bad_1_2": 0.1, "train_1_2": 0.9}
    sequences = [
        {"sequence_name": s, "category": "apple", "viewpoint_quality_score": q}
        for s, q in quality.items()
    ]
    for name, content in (("frame", frames[::-1]), ("sequence", sequences)):
        with gzip.open(category / f"{name}_annotations.jgz", "wt") as file:
            json.dump(content, file)
    (category / "set_lists").mkdir()
    lists = category / "set_lists" / "set_lists_fewview_dev.json"
    lists.write_text(json.dumps({"train": [], "val": [], "test": listed}))


def _co3d_frame(
    scene: Known, i: int, sequence: str, image: str, depth: str, mask: str, isotropic: bool
) -> dict[str, Any]:
    """PyTorch3D: the columns of R are the camera's left, up and forward axes in the world."""
    right, down, forward, place = scene.axes(i)
    left, up = -right, -down
    k = scene.intrinsics[i]
    unit = np.array([min(H, W) / 2] * 2 if isotropic else [W / 2, H / 2])
    # NDC grow to the left and upwards from the centre.
    principal = (np.array([W / 2, H / 2]) - k[:2, 2]) / unit
    return {
        "sequence_name": sequence,
        "frame_number": i + 1,
        "frame_timestamp": 0.1 * i,
        "image": {"path": image, "size": [H, W]},
        "depth": {"path": depth, "scale_adjustment": 2.5, "mask_path": mask},
        "mask": None,
        "viewpoint": {
            "R": np.stack([left, up, forward], axis=1).tolist(),
            "T": [float(-left @ place), float(-up @ place), float(-forward @ place)],
            "focal_length": (np.array([k[0, 0], k[1, 1]]) / unit).tolist(),
            "principal_point": principal.tolist(),
            **({"intrinsics_format": "ndc_isotropic"} if isotropic else {}),
        },
    }


def write_realestate10k(root: Path, scene: Known, frames: str = "frames/test") -> None:
    """Clip 0a1b2c, of which the second frame was not extracted."""
    lines = ["https://www.youtube.com/watch?v=none"]
    for i, image in enumerate(scene.images):
        time = 45979267 + 33333 * i
        k = scene.intrinsics[i]
        row = [k[0, 0] / W, k[1, 1] / H, k[0, 2] / W, k[1, 2] / H, 0, 0]
        row += scene.extrinsics[i].ravel().tolist()
        lines.append(f"{time} " + " ".join(f"{value:.12f}" for value in row))
        if i != 1:
            save_png(root / frames / "0a1b2c" / f"{time}.png", image)
    (root / "test").mkdir(exist_ok=True, parents=True)
    (root / "test" / "0a1b2c.txt").write_text("\n".join(lines) + "\n")


def write_seven_scenes(root: Path, scene: Known) -> None:
    """`chess` with a training sequence 1 and a test sequence 3; photos of the published size."""
    for sequence in ("seq-01", "seq-03"):
        for i in range(len(scene.images)):
            stem = root / "chess" / sequence / f"frame-{i:06d}"
            large = np.kron(scene.images[i], np.ones((20, 20, 1), np.uint8))
            save_png(stem.with_name(stem.name + ".color.png"), large)
            depth = millimetres(scene.depth[i])
            depth[0, :] = 65535
            depth[:, 0] = 0
            save_png(stem.with_name(stem.name + ".depth.png"), depth)
            save_text(stem.with_name(stem.name + ".pose.txt"), scene.to_world(i))
    (root / "chess" / "TestSplit.txt").write_text("sequence3\n")


def write_nrgbd(root: Path, scene: Known) -> None:
    """`whiteroom`; OpenGL's columns: right, up, backward, place. The third pose is unknown."""
    rows = []
    for i, image in enumerate(scene.images):
        save_png(root / "whiteroom" / "images" / f"img{i}.png", image)
        save_png(root / "whiteroom" / "depth" / f"depth{i}.png", millimetres(scene.depth[i]))
        right, down, forward, place = scene.axes(i)
        pose = np.vstack([np.stack([right, -down, -forward, place], axis=1), [0, 0, 0, 1]])
        rows.append(np.full((4, 4), np.nan) if i == 2 else pose)
    save_text(root / "whiteroom" / "poses.txt", np.concatenate(rows))
    (root / "whiteroom" / "focal.txt").write_text(f"{scene.intrinsics[0, 0, 0]}\n")


def write_scannet(root: Path, scene: Known) -> None:
    """`scans_test/scene0707_00`: photos twice the size, depth without its first rows, columns."""
    folder = root / "scans_test" / "scene0707_00"
    for i, image in enumerate(scene.images):
        save_png(folder / "color" / f"{i * 10}.jpg", np.kron(image, np.ones((2, 2, 1), np.uint8)))
        save_png(folder / "depth" / f"{i * 10}.png", millimetres(scene.depth[i, 2:, 3:]))
        lost = np.full((4, 4), -np.inf)
        save_text(folder / "pose" / f"{i * 10}.txt", lost if i == 1 else scene.to_world(i))
    color, depth = np.eye(4), np.eye(4)
    color[:3, :3] = np.diag([2, 2, 1]) @ scene.intrinsics[0]
    depth[:3, :3] = scene.intrinsics[0]
    depth[:2, 2] -= [3, 2]
    save_text(folder / "intrinsic" / "intrinsic_color.txt", color)
    save_text(folder / "intrinsic" / "intrinsic_depth.txt", depth)


def write_colmap(folder: Path, names: list[str], extrinsics: Float64, cameras: list[str]) -> None:
    """A text model with a camera an image and no points; cameras as "MODEL W H parameters"."""
    folder.mkdir(parents=True)
    lines = [f"{i + 1} {camera}" for i, camera in enumerate(cameras)]
    (folder / "cameras.txt").write_text("# cameras\n" + "\n".join(lines) + "\n")
    lines = []
    for i, (name, e) in enumerate(zip(names, extrinsics, strict=True)):
        x, y, z, w = Rotation.from_matrix(e[:, :3]).as_quat()
        numbers = " ".join(repr(float(v)) for v in (w, x, y, z, *e[:, 3]))
        lines += [f"{i + 1} {numbers} {i + 1} {name}", ""]
    (folder / "images.txt").write_text("# images\n" + "\n".join(lines) + "\n")
    (folder / "points3D.txt").write_text("# points\n")


def pinholes(scene: Known) -> list[str]:
    return [
        f"PINHOLE {W} {H} {float(k[0, 0])!r} {float(k[1, 1])!r} {k[0, 2]} {k[1, 2]}"
        for k in scene.intrinsics
    ]


def write_eth3d(root: Path, scene: Known, depth: Callable[[int, Float64], Float64]) -> None:
    """`pipes`. The original camera is an equidistant fisheye: r = f theta, one of COLMAP's.

    Args:
        root: folder to fill.
        scene: of which only the cameras and photos are used.
        depth: (view, rays (N, 3) with z = 1) -> z-depth.
    """
    folder, names = root / "pipes", [f"DSC_{i:04d}.JPG" for i in range(len(scene.images))]
    height, width, focal = 2 * H, 2 * W, 26.0
    fisheye = f"THIN_PRISM_FISHEYE {width} {height} {focal} {focal} {width / 2} {height / 2}"
    for kind, cameras in (("undistorted", pinholes(scene)), ("jpg", [fisheye + " 0" * 8] * 9)):
        place = "dslr_images_undistorted" if kind == "undistorted" else "dslr_images"
        write_colmap(
            folder / f"dslr_calibration_{kind}",
            [f"{place}/{name}" for name in names],
            scene.extrinsics,
            cameras[: len(names)],
        )
    v, u = np.mgrid[:height, :width] + 0.5
    x, y = (u - width / 2) / focal, (v - height / 2) / focal
    theta = np.hypot(x, y)
    stretch = np.tan(theta) / np.maximum(theta, 1e-12)
    rays = np.stack([x * stretch, y * stretch, np.ones_like(x)], axis=-1).reshape(-1, 3)
    (folder / "ground_truth_depth" / "dslr_images").mkdir(parents=True)
    for i, name in enumerate(names):
        save_png(folder / "images" / "dslr_images_undistorted" / name, scene.images[i])
        raw = depth(i, rays).astype("<f4").reshape(height, width)
        raw[0] = np.inf
        raw.tofile(folder / "ground_truth_depth" / "dslr_images" / name)


def write_tanks_temples(
    root: Path, scene: Known, *, model: bool, scan: Float64, motion: Float64
) -> None:
    """`Barn`, cameras by log or model, in a frame that `motion` (4, 4) takes to the scan's."""
    folder = root / "Barn"
    scale = np.cbrt(np.linalg.det(motion[:3, :3]))
    names, lines, moved = [], [], []
    for i, image in enumerate(scene.images):
        names.append(f"{i + 1:06d}.jpg")
        save_png(folder / names[-1], image)
        pose = scene.to_world(i)
        pose[:3, :3] = motion[:3, :3].T / scale @ pose[:3, :3]
        pose[:, 3] = np.linalg.solve(motion, pose[:, 3])
        lines.append(f"{i} {i} 0\n" + "\n".join(" ".join(map(repr, r)) for r in pose.tolist()))
        moved.append(np.linalg.inv(pose)[:3])
    if model:
        write_colmap(folder / "sparse" / "0", names, np.stack(moved), pinholes(scene))
    else:
        (folder / "Barn_COLMAP_SfM.log").write_text("\n".join(lines) + "\n")
    save_text(folder / "Barn_trans.txt", motion)
    trimesh.PointCloud(scan).export(folder / "Barn.ply")
    low, high = scan.min(axis=0), scan.max(axis=0)
    square = [
        (low[0] - 1, low[2] - 1),
        (0.0, low[2] - 1),
        (0.0, high[2] + 1),
        (low[0] - 1, high[2] + 1),
    ]
    (folder / "Barn.json").write_text(
        json.dumps(
            {
                "class_name": "SelectionPolygonVolume",
                "orthogonal_axis": "Y",
                "axis_min": float(low[1]) - 1,
                "axis_max": float(high[1]) + 1,
                "bounding_polygon": [[x, 0.0, z] for x, z in square],
            }
        )
    )


def write_dtu(root: Path, scene: Known, *, mvsnet: bool, scan: Float64) -> None:
    """`scan4`, millimetres as they come; projection matrices of any sign and size."""
    for i, image in enumerate(scene.images):
        k, e = scene.intrinsics[i], scene.extrinsics[i]
        if mvsnet:
            save_png(root / "scan4" / "images" / f"{i:08d}.jpg", image)
            outer, inner = ([" ".join(map(repr, r)) for r in m.tolist()] for m in (e, k))
            rows = ["extrinsic", *outer, "0 0 0 1", "", "intrinsic", *inner, "", "425.0 2.5"]
            cams = root / "scan4" / "cams"
            cams.mkdir(exist_ok=True)
            (cams / f"{i:08d}_cam.txt").write_text("\n".join(rows) + "\n")
        else:
            name = f"rect_{i + 1:03d}_max.png"
            save_png(root / "Rectified" / "scan4" / name, image)
            save_png(root / "Rectified" / "scan4" / f"rect_{i + 1:03d}_3_r5000.png", image // 2)
            position = root / "Calibration" / "cal18" / f"pos_{i + 1:03d}.txt"
            save_text(position, (-1) ** i * 7.0 * k @ e)
    stl = root / "Points" / "stl" / "stl004_total.ply"
    stl.parent.mkdir(parents=True)
    trimesh.PointCloud(scan).export(stl)
    (root / "ObsMask").mkdir()
    low, high = scan.min(axis=0) - 1, scan.max(axis=0) + 1
    size = np.ceil((high - low) / 0.5).astype(int) + 1
    mask = np.zeros(size, np.uint8)
    mask[: size[0] // 2] = 1
    box = np.stack([low, high])
    savemat(root / "ObsMask" / "ObsMask4_10.mat", {"ObsMask": mask, "BB": box, "Res": 0.5})
    savemat(root / "ObsMask" / "Plane4.mat", {"P": np.array([[0.0], [-1.0], [0.0], [-0.01]])})
