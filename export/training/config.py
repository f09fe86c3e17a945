"""What a training run is made of: the model's sizes, the curriculum and the optimiser."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from covis.engines.errors import user_error
from covis.synthetic import FAMILIES, PATHS

# covis-mini: 3.6 M parameters; heads of 64 features, as all the big models have.
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
    """A stretch of the curriculum.

    Attributes:
        until: share of all steps at which it ends; the last phase's is 1.
        scenes: `family/path` -> weight of the draw.
        views: fewest and most views a sample.
        in_room: poses and points are asked in the frame of the room instead of the first view's.
            In a family of alike rooms this teaches to localise single views, which a small model
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
    """Everything that decides a run; stored in every checkpoint.

    Attributes:
        model: fields of the VGGT configuration.
        size: side of the square images in pixels.
        steps: optimiser steps of the whole schedule.
        images: images a step; a step with M views has `images // M` samples.
        map_frames: images a step whose depth and points are supervised; the map heads cost more
            than the trunk on a CPU.
        views_per_scene: rendered views of a scene, of which samples take some.
        scenes_per_step: new scenes a step.
        pool: scenes kept for samples, the newest ones.
        warm_scenes: scenes rendered before the first step.
        learning_rate: peak of AdamW's.
        warmup: steps of linear rise; then a cosine down to a hundredth.
        weight_decay: of matrices.
        clip: largest gradient norm.
        ema: decay of the averaged weights, which are the ones exported.
        pose_weight: factor of the camera loss; depth and points have 1.
        shadows: whether training scenes cast shadows.
        seed: of weights, samples and scenes.
        curriculum: phases in order.
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
        """The phase of a step."""
        share = step / self.steps
        return next((p for p in self.curriculum if share < p.until), self.curriculum[-1])

    def to_json(self) -> str:
        """The configuration as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> TrainingConfig:
        """The inverse of `to_json`."""
        record = json.loads(text)
        record["curriculum"] = tuple(
            Phase(p["until"], p["scenes"], (p["views"][0], p["views"][1]), p["in_room"])
            for p in record["curriculum"]
        )
        return TrainingConfig(**record)
