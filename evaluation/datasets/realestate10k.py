"""RealEstate10K: clips of house tours (Zhou et al., "Stereo magnification", SIGGRAPH 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from covis.evaluation.datasets.files import (
    PHOTOS,
    damaged,
    folders,
    listed,
    not_there,
    numbers,
    photo_size,
    pinhole,
    read_text,
    settings,
)
from covis.evaluation.datasets.truth import GroundTruth, SceneRef


@dataclass(frozen=True)
class RealEstate10K:
    """The published camera files `test/<clip>.txt`, with frames extracted by the user.

    A file contains the video's address, and a line per frame: its time in microseconds, fx fy cx cy
    as shares of width and height, two zeros, world to camera (3, 4) by rows, OpenCV axes. Frames
    are searched as `<time>.jpg` or `.png` in `<clip>/` beside the file, and in `frames/` or
    `images/` beside the split (`frames/test/<clip>/<time>.jpg`); frames that were not extracted
    are skipped. There is no depth. The unit is arbitrary and differs between clips.

    Attributes:
        paths: Folders with `test/`, or camera files themselves.
    """

    paths: tuple[str, ...]
    name: str = "realestate10k"

    def settings(self) -> dict[str, object]:
        """Return the settings that distinguish two copies of the dataset."""
        return settings(self.paths)

    def scenes(self) -> list[SceneRef]:
        """List the clips of the test split, or of the folder itself."""
        out = []
        for root in folders(self.paths):
            split = next((d for d in (root / "test", root) if any(d.glob("*.txt"))), None)
            if split is None:
                raise not_there("neither test/*.txt nor *.txt in it", root)
            out += [SceneRef(path.stem, self.name, path) for path in listed(split, "*.txt")]
        return out

    def load(self, ref: SceneRef) -> GroundTruth:
        """Load the extracted frames of a clip."""
        path: Path = ref.key
        lines = [line for line in read_text(path).splitlines()[1:] if line.strip()]
        rows = [numbers(line, path) for line in lines]
        if not rows or any(row.size != 19 for row in rows):
            raise damaged(path, "a frame has 19 numbers")
        home, images, kept = _frames_folder(path), [], []
        for index, line in enumerate(lines):
            stem = line.split()[0]
            photo = next((home / (stem + s) for s in PHOTOS if (home / (stem + s)).is_file()), None)
            if photo is not None:
                images.append(photo)
                kept.append(index)
        if not images:
            raise not_there(f"none of its {len(rows)} frames is in {home}", ref.name)
        data = np.stack([rows[index] for index in kept])
        height, width = photo_size(images[0])
        shares = data[:, 1:5] * [width, height, width, height]
        return GroundTruth(
            scene=ref,
            images=tuple(images),
            extrinsics=data[:, 7:19].reshape(-1, 3, 4),
            intrinsics=np.stack([pinhole(*row) for row in shares]),
            frames=np.array(kept),
        )


def _frames_folder(path: Path) -> Path:
    split, clip = path.parent, path.stem
    places = [split / clip]
    for above in (split, split.parent):
        for name in ("frames", "images"):
            places += [above / name / split.name / clip, above / name / clip]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise not_there("no folder of its frames, e.g. " + str(places[1]), path)
    return found
