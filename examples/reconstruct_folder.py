"""Reconstruct a folder of photos: cameras as JSON, points as PLY.

    python examples/reconstruct_folder.py BUNDLE PHOTOS OUT
    python examples/reconstruct_folder.py              # the shipped bundle, rendered photos

`covis run` writes more formats; this shows how to take a scene further from Python.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import trimesh

import covis

SHIPPED_BUNDLE = Path(covis.__file__).parent / "assets" / "demo"


def rendered_photos(folder: Path, views: int = 12) -> Path:
    """A folder of photos of a small rendered room."""
    from covis.synthetic import demo_scene, write_photos

    write_photos(folder, demo_scene(views, 192, 192, family="studio"))
    return folder


def save(scene: covis.Scene, out: Path) -> None:
    """Write the cameras and the more confident points of a scene."""
    out.mkdir(parents=True, exist_ok=True)
    cameras = [
        {
            "photo": name,
            "world_to_camera": extrinsics.tolist(),  # (3, 4), OpenCV axes
            "intrinsics": intrinsics.tolist(),  # (3, 3), in pixels of the original photo
        }
        for name, extrinsics, intrinsics in zip(
            scene.names, scene.extrinsics, scene.intrinsics_original, strict=True
        )
    ]
    (out / "cameras.json").write_text(json.dumps(cameras, indent=1) + "\n", encoding="utf-8")
    xyz, rgb, _ = scene.point_cloud(percentile=20)
    trimesh.PointCloud(xyz, colors=rgb).export(out / "points.ply")
    print(f"{len(scene)} cameras and {len(xyz):,} points in {out}")


def main() -> None:
    """Read the arguments, reconstruct, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", nargs="?", type=Path, default=SHIPPED_BUNDLE)
    parser.add_argument("photos", nargs="?", type=Path)
    parser.add_argument("out", nargs="?", type=Path)
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="covis-example-"))
    photos = arguments.photos or rendered_photos(scratch / "photos")
    save(covis.reconstruct(photos, arguments.bundle), arguments.out or scratch / "scene")


if __name__ == "__main__":
    main()
