"""Pose2Sim: calibrated cameras around a person (Pagnon et al., Sensors 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from covis.engines.errors import user_error
from covis.evaluation.datasets.distortion import undistort
from covis.evaluation.datasets.files import folders, listed, not_there, settings
from covis.evaluation.datasets.pose2sim_calibration import (
    Camera,
    calibration_file,
    read_calibration,
)
from covis.evaluation.datasets.truth import GroundTruth, SceneRef
from covis.evaluation.metrics.pose import Float64

_CALIBRATION, _VIDEOS = "calibration", "videos"
_BARS = 0.02  # largest share of a frame that black bars may take


@dataclass(frozen=True)
class Pose2Sim:
    """Sessions `<session>/calibration/` with `<session>/videos/` or `<session>/<trial>/videos/`.

    The calibration is Pose2Sim's own (`Calib.toml`) or, where no `.toml` exists, the one of
    Qualisys Track Manager (`Calib.qca.txt`). Each camera has one video; they belong together by
    name, or else by natural order. A view is the first frame of a video, without the distortion of
    its lens. A frame of another size than the calibrated image must be that image, scaled, with
    black bars on two sides at most. There is no depth, the unit is metres.

    Attributes:
        paths: Folders of sessions, or sessions themselves.
    """

    paths: tuple[str, ...]
    name: str = "pose2sim"

    def settings(self) -> dict[str, object]:
        """Return the settings that distinguish two copies of the dataset."""
        return settings(self.paths)

    def scenes(self) -> list[SceneRef]:
        """List the trials, as Demo_SinglePerson or Demo_Batch/Trial_1."""
        out = []
        for root in folders(self.paths):
            sessions = [root] if (root / _CALIBRATION).is_dir() else listed(root)
            found = [
                ref
                for session in sessions
                if (session / _CALIBRATION).is_dir()
                for ref in self._trials(session.resolve())
            ]
            if not found:
                raise not_there(f"no session with {_CALIBRATION} and {_VIDEOS} in it", root)
            out += found
        return out

    def _trials(self, session: Path) -> list[SceneRef]:
        places = [session, *listed(session)]
        return [
            SceneRef(place.relative_to(session.parent).as_posix(), self.name, (session, place))
            for place in places
            if (place / _VIDEOS).is_dir()
        ]

    def load(self, ref: SceneRef) -> GroundTruth:
        """Load the first frame of each camera's video."""
        session, trial = ref.key
        path = calibration_file(session / _CALIBRATION)
        cameras = read_calibration(path)
        videos = _matched(trial / _VIDEOS, cameras, path)
        views = [_view(video, camera) for video, camera in zip(videos, cameras, strict=True)]
        return GroundTruth(
            scene=ref,
            images=tuple(image for image, _ in views),
            extrinsics=np.stack([camera.extrinsics for camera in cameras]),
            intrinsics=np.stack([intrinsics for _, intrinsics in views]),
            frames=np.arange(len(cameras)),
        )


def _matched(folder: Path, cameras: list[Camera], calibration: Path) -> list[Path]:
    """Return the video of each camera."""
    from covis.runtime.photos.video import SUFFIXES

    videos = [path for path in listed(folder) if path.suffix.lower() in SUFFIXES]
    if len(videos) != len(cameras):
        raise user_error(
            f"has {len(videos)} videos for the {len(cameras)} cameras of {calibration.name}",
            where=folder,
            hint="keep one video for each camera",
        )
    by_name = {path.stem: path for path in videos}
    if by_name.keys() == {camera.name for camera in cameras}:
        return [by_name[camera.name] for camera in cameras]
    return videos


def _view(video: Path, camera: Camera) -> tuple[NDArray[np.uint8], Float64]:
    """Return the first frame (h, w, 3) as a pinhole would have taken it, and its intrinsics.

    Pose2Sim's own demonstration has videos of 1080 x 1920 pixels whose cameras were calibrated at
    1088 x 1920: they were scaled to fit the width, and rows of black were added above and below.
    """
    from covis.runtime.photos.video import scan

    frame = np.asarray(scan(video).frame(0).decode(), np.uint8)
    height, width = frame.shape[:2]
    scale = min(height / camera.size[0], width / camera.size[1])
    covered = np.array(camera.size) * scale
    if (covered < np.array([height, width]) * (1 - _BARS)).any():
        raise user_error(
            f"has {width} x {height} pixels, its camera {camera.name} "
            f"{camera.size[1]} x {camera.size[0]}",
            where=video,
            hint="use the calibration of this video",
        )
    v, u = (np.array([height, width]) - covered) / 2
    intrinsics = np.diag([scale, scale, 1.0]) @ camera.intrinsics
    size = (round(covered[0]), round(covered[1]))
    image = undistort(frame, intrinsics, camera.distortion, size, (float(u), float(v)))
    return image, intrinsics
