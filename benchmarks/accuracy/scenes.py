"""Held-out scenes of the accuracy benchmark, rendered as training renders its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accuracy.requests import SceneRequest
from covis.evaluation.datasets.covisibility import true_covisibility
from covis.evaluation.datasets.truth import DepthArray, GroundTruth, SceneRef
from covis.export.training.data import Batch, normalised
from covis.export.training.evaluate import PATH_VIEWS, drawn_views
from covis.export.training.rendering import Request, View, rendered
from covis.runtime.scene.from_heads import nearest_rotation
from covis.synthetic import TRAINING_SEEDS_START, SceneSpec, build, camera_path


@dataclass(frozen=True)
class HeldOut:
    """A rendered scene.

    Attributes:
        request: Scene and views.
        view: Its M views, as training reads them.
    """

    request: SceneRequest
    view: View

    @property
    def images(self) -> Tensor:
        """Images (M, 3, H, W) in [0, 1], of the 256 values that photos have."""
        return self.view["images"].float() / 255

    @property
    def batch(self) -> Batch:
        """The scene as a sample of training, in the frame of view 0."""
        sample = {name: value[None] for name, value in self.view.items()}
        return normalised({**sample, "images": self.images[None]})

    @cached_property
    def truth(self) -> GroundTruth:
        """Ground truth, in metres."""
        kind, views = self.request.kind, self.request.views
        return GroundTruth(
            scene=SceneRef(self.request.name, kind),
            images=tuple(self.view["images"].permute(0, 2, 3, 1).numpy()),
            extrinsics=self.view["extrinsics"].double().numpy(),
            frames=np.arange(views),
            intrinsics=self.view["intrinsics"].double().numpy(),
            depth=tuple(DepthArray(depth) for depth in self.view["depth"].numpy()),
        )

    @cached_property
    def covisibility(self) -> NDArray[np.float64]:
        """Share (M, M) of the surface of view i that view j sees."""
        sizes = np.full((self.request.views, 2), self.request.size)
        seen = true_covisibility(self.truth, sizes)
        assert seen is not None
        return seen


def load(request: SceneRequest) -> HeldOut:
    """Render a scene, with four colour rays a pixel and without shadows, as training does."""
    path = max(request.views, PATH_VIEWS) if request.draw == "random" else request.views
    view = rendered(Request(request.kind, request.seed, path, request.size, shadows=False))
    if request.draw == "random":
        chosen = torch.from_numpy(drawn_views("random", path, request.views, request.seed))
        view = {name: value[chosen] for name, value in view.items()}
    return HeldOut(request, view)


def mean_training_pose(kind: str, scenes: int = 100) -> NDArray[np.float64]:
    """Return the mean pose (3, 4) of another view in a first view's frame, over training scenes.

    It consists of the rotation nearest to the mean matrix, and the mean translation.
    """
    family, _, path = kind.partition("/")
    relative = []
    for seed in range(TRAINING_SEEDS_START, TRAINING_SEEDS_START + scenes):
        world = build(SceneSpec(seed, family))  # type: ignore[arg-type]
        extrinsics = camera_path(world, PATH_VIEWS, path).extrinsics  # type: ignore[arg-type]
        e = extrinsics[np.random.default_rng(seed).permutation(PATH_VIEWS)]
        r = e[1:, :, :3] @ e[0, :, :3].T
        t = e[1:, :, 3] - r @ e[0, :, 3]
        relative.append(np.concatenate([r, t[:, :, None]], axis=2))
    mean = np.concatenate(relative).mean(axis=0)
    rotation = nearest_rotation(mean[None, :, :3])[0]
    return np.concatenate([rotation, mean[:, 3:]], axis=1)
