"""Configuration of a training run: the model's sizes, the curriculum and the optimiser."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from covis.engines.errors import user_error
from covis.synthetic import FAMILIES, PATHS

# covis-mini: 3.6 M parameters; heads of 64 features, as in all the large models.
MINI: Mapping[str, Any] = {
    "embed_dim": 128,
    "depth": 8,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "img_size": 112,
    "dino_depth": 2,
    "dino_heads": 2,
    "dino_mlp_ratio": 2.0,
    "camera_trunk_depth": 1,
    "camera_heads": 4,
    "camera_mlp_ratio": 1.0,
    "dpt_features": 32,
    "dpt_out_channels": [16, 32, 48, 48],
    "dpt_layers": [1, 3, 5, 7],
    "num_register_tokens": 4,
}


@dataclass(frozen=True)
class Phase:
    """A part of the curriculum.

    Attributes:
        until: Share of all steps at which the phase ends; 1 for the last phase.
        scenes: Weight of each kind of scene, `family/path`, in the random draw.
        views: Smallest and largest number of views of a sample.
        in_room: Predict poses and points in the frame of the room instead of the first view's. In a
            family of similar rooms this teaches to localise single views, which a small model
            learns far sooner than comparing views; the next phase then teaches the comparison.
    """

    until: float
    scenes: Mapping[str, float]
    views: tuple[int, int]
    in_room: bool = False

    def __post_init__(self) -> None:
        """Raise a user error for unknown families or paths and impossible numbers of views."""
        for name in self.scenes:
            family, _, path = name.partition("/")
            if family not in FAMILIES or path not in PATHS:
                raise user_error("is no family/path of scenes", where=name)
        if not 2 <= self.views[0] <= self.views[1]:
            raise user_error("needs two views or more a sample", where=f"views {self.views}")


CURRICULUM = (
    Phase(0.05, {"studio/orbit": 1.0}, (2, 3), in_room=True),
    Phase(0.4, {"studio/orbit": 1.0}, (2, 6)),
    Phase(
        0.7,
        {"studio/orbit": 0.6, "studio/walk": 0.15, "studio/turn": 0.1, "studio/scatter": 0.15},
        (2, 9),
    ),
    Phase(
        1.0,
        {
            "studio/orbit": 0.4,
            "studio/walk": 0.1,
            "studio/turn": 0.1,
            "studio/scatter": 0.1,
            "room/orbit": 0.15,
            "room/walk": 0.1,
            "loop/loop": 0.05,
        },
        (2, 12),
    ),
)


@dataclass(frozen=True)
class TrainingConfig:
    """All settings that determine a run; stored in every checkpoint.

    Attributes:
        model: Fields of the VGGT configuration.
        size: Side of the square images in pixels.
        steps: Optimiser steps of the whole schedule.
        images: Images of a step; a step with M views has `images // M` samples.
        map_frames: Images of a step whose depth and points are supervised. The map heads cost more
            than the trunk on a CPU.
        views_per_scene: Rendered views of a scene; samples use some of them.
        scenes_per_step: New scenes of a step.
        pool: Number of newest scenes that samples are drawn from.
        warm_scenes: Scenes rendered before the first step.
        learning_rate: Peak learning rate of AdamW.
        warmup: Steps of linear warm-up; then the rate falls by a cosine to a hundredth.
        weight_decay: Weight decay of matrices.
        clip: Largest gradient norm.
        ema: Decay of the averaged weights, which are the ones that are exported.
        pose_weight: Factor of the camera loss; depth and points have factor 1.
        shadows: True if training scenes cast shadows.
        seed: Seed of weights, samples and scenes.
        curriculum: Phases in order.
    """

    model: Mapping[str, Any] = field(default_factory=lambda: dict(MINI))
    size: int = 112
    steps: int = 20_000
    images: int = 24
    map_frames: int = 4
    views_per_scene: int = 12
    scenes_per_step: float = 0.5
    pool: int = 2048
    warm_scenes: int = 64
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.998
    pose_weight: float = 5.0
    shadows: bool = False
    seed: int = 0
    curriculum: tuple[Phase, ...] = CURRICULUM

    def __post_init__(self) -> None:
        """Raise a user error for numbers that contradict each other."""
        most = max(phase.views[1] for phase in self.curriculum)
        if most > min(self.views_per_scene, self.images):
            raise user_error(
                f"the curriculum wants {most} views a sample",
                where="training",
                hint="raise views_per_scene and images to at least that",
            )
        if self.warm_scenes < 1 or self.steps < 1 or self.pool < 1:
            raise user_error("steps, pool and warm_scenes must be positive", where="training")

    def phase(self, step: int) -> Phase:
        """Return the phase of a step."""
        share = step / self.steps
        return next((p for p in self.curriculum if share < p.until), self.curriculum[-1])

    def to_json(self) -> str:
        """Return the configuration as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> TrainingConfig:
        """Read a configuration from the JSON of `to_json`."""
        record = json.loads(text)
        record["curriculum"] = tuple(
            Phase(p["until"], p["scenes"], (p["views"][0], p["views"][1]), p["in_room"])
            for p in record["curriculum"]
        )
        return TrainingConfig(**record)
