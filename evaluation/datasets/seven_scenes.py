"""7-Scenes: Kinect sequences of small rooms (Shotton et al., CVPR 2013)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from covis.evaluation.datasets.files import (
    PngDepth,
    folders,
    listed,
    not_there,
    pinhole,
    read_matrix,
    read_text,
    settings,
    to_extrinsics,
)
from covis.evaluation.datasets.truth import GroundTruth, SceneRef

# The published camera: focal length 585, principal point (320, 240), for colour and depth alike.
_FOCAL, _CENTER, _SIZE = 585.0, (320.0, 240.0), (480, 640)
# Depth registered to the colour camera, as SimpleRecon's preparation writes it, and its camera.
_REGISTERED, _REGISTERED_FOCAL = ".depth.proj.png", 525.0
_UNKNOWN = (65535,)


@dataclass(frozen=True)
class SevenScenes:
    """The published layout: `chess/seq-03/frame-000000.{color.png,depth.png,pose.txt}`.

    Poses are camera to world, OpenCV axes, metres; depth is in millimetres, 65535 is unknown. The
    published depth is not registered to the colour image, which costs some pixels at edges; where
    `frame-000000.depth.proj.png` exists, it is used instead, with a focal length of 525.

    Attributes:
        paths: Folders of scenes, or scenes themselves.
    """

    paths: tuple[str, ...]
    name: str = "7scenes"

    def settings(self) -> dict[str, object]:
        """Return the settings that distinguish two copies of the dataset."""
        return settings(self.paths)

    def scenes(self) -> list[SceneRef]:
        """List the sequences of each scene's `TestSplit.txt`; all where it has none."""
        out = []
        for root in folders(self.paths):
            inside = [root] if any(root.glob("seq-*")) else listed(root)
            scenes = [place for place in inside if place.is_dir() and any(place.glob("seq-*"))]
            if not scenes:
                raise not_there("no scene with seq-* folders in it", root)
            for scene in scenes:
                for sequence in _sequences(scene):
                    name = f"{scene.name}/{sequence.name}"
                    out.append(SceneRef(name, self.name, sequence))
        return out

    def load(self, ref: SceneRef) -> GroundTruth:
        """Load all frames of a sequence."""
        folder: Path = ref.key
        images = listed(folder, "frame-*.color.*")
        if not images:
            raise not_there("no frame-*.color.png in it", folder)
        stems = [path.name.split(".")[0] for path in images]
        poses = [read_matrix(folder / f"{stem}.pose.txt", 4, 4) for stem in stems]
        registered = all((folder / (stem + _REGISTERED)).is_file() for stem in stems)
        suffix = _REGISTERED if registered else ".depth.png"
        focal = _REGISTERED_FOCAL if registered else _FOCAL
        depth = tuple(
            PngDepth(folder / (stem + suffix), 1e-3, _UNKNOWN, photo=_SIZE) for stem in stems
        )
        return GroundTruth(
            scene=ref,
            images=tuple(images),
            extrinsics=to_extrinsics(np.stack(poses)),
            intrinsics=np.tile(pinhole(focal, focal, *_CENTER), (len(images), 1, 1)),
            frames=np.arange(len(images)),
            depth=depth,
        )


def _sequences(scene: Path) -> list[Path]:
    split = scene / "TestSplit.txt"
    if not split.is_file():
        return listed(scene, "seq-*")
    out = []
    for line in read_text(split).split():
        number = re.search("[0-9]+", line)
        folder = scene / f"seq-{int(number[0]) if number else 0:02d}"
        if not folder.is_dir():
            raise not_there(f"no {folder.name}, which TestSplit.txt lists", scene)
        out.append(folder)
    return out
