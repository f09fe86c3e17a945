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

# Kinds of held-out scenes, family/path, that the model is scored on.
SCORED_KINDS = (
    "studio/arc",
    "studio/orbit",
    "room/arc",
    "room/orbit",
    "room/walk",
    "objects/arc",
    "objects/orbit",
    "loop/loop",
)


@dataclass(frozen=True)
class Phase:
    """A part of the curriculum.

    Attributes:
        until: Progress, from 0 to 1, at which the phase ends; 1 for the last phase.
        scenes: Weight of each kind of scene, `family/path`, in the random draw.
        views: Smallest and largest number of views of a sample.
        window: Smallest and largest share of the camera path that the views of a sample come from:
            a small share gives views that are close to each other.
    """

    until: float
    scenes: Mapping[str, float]
    views: tuple[int, int]
    window: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        """Raise a user error for unknown families or paths and impossible numbers."""
        for name in self.scenes:
            family, _, path = name.partition("/")
            if family not in FAMILIES or path not in PATHS:
                raise user_error("is no family/path of scenes", where=name)
        if not 2 <= self.views[0] <= self.views[1]:
            raise user_error("needs two views or more a sample", where=f"views {self.views}")
        if not 0 < self.window[0] <= self.window[1] <= 1:
            raise user_error(
                "is no range of shares of a camera path",
                where=f"window {self.window}",
                hint="give two numbers above 0, at most 1, the smaller one first",
            )


CLOSE = {"studio/arc": 1.0, "room/arc": 1.0, "objects/arc": 1.0}
WIDE = {
    "studio/arc": 1.0,
    "studio/orbit": 1.0,
    "room/arc": 1.0,
    "room/orbit": 1.5,
    "room/walk": 0.5,
    "objects/arc": 1.0,
    "objects/orbit": 1.0,
    "loop/loop": 0.5,
}
# From close pairs to wide views, of which some share nothing.
CURRICULUM = (
    Phase(0.1, CLOSE, (2, 2), (0.1, 0.4)),
    Phase(0.3, CLOSE, (2, 4), (0.1, 0.7)),
    Phase(0.6, WIDE, (2, 8), (0.2, 1.0)),
    Phase(1.0, WIDE, (2, 24), (0.3, 1.0)),
)


@dataclass(frozen=True)
class TrainingConfig:
    """All settings that determine a run; stored in every checkpoint.

    Attributes:
        model: Fields of the VGGT configuration.
        size: Side of the square images in pixels.
        steps: Optimiser steps of the whole schedule.
        minutes: Length of the schedule in minutes of training instead of steps; 0: `steps` counts.
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
        auxiliary: Factor of the auxiliary losses.
        fade: Progress from which the auxiliary losses fade out; they are 0 at the end.
        attention_layers: Global layers whose first head is supervised by true matches.
        flow_layer: Global layer after which tokens must carry the position of their match.
        pose_layer: Global layer after which tokens must carry their point and their view's pose.
        supersample: Colour rays of a pixel, along each axis.
        shadows: True if training scenes cast shadows.
        seed: Seed of weights, samples and scenes.
        curriculum: Phases in order.
    """

    model: Mapping[str, Any] = field(default_factory=lambda: dict(MINI))
    size: int = 112
    steps: int = 20_000
    minutes: float = 0.0
    images: int = 24
    map_frames: int = 2
    views_per_scene: int = 24
    scenes_per_step: float = 0.2
    pool: int = 1024
    warm_scenes: int = 64
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.998
    pose_weight: float = 5.0
    auxiliary: float = 1.0
    fade: float = 0.6
    attention_layers: tuple[int, ...] = (2, 4)
    flow_layer: int = 4
    pose_layer: int = 6
    supersample: int = 2
    shadows: bool = False
    seed: int = 0
    curriculum: tuple[Phase, ...] = CURRICULUM

    def __post_init__(self) -> None:
        """Raise a user error for numbers that contradict each other."""
        most = max(phase.views[1] for phase in self.curriculum)
        if most > min(self.views_per_scene, self.images):
            raise user_error(
                f"the curriculum has samples of {most} views",
                where="training",
                hint="raise views_per_scene and images to at least that",
            )
        if self.warm_scenes < 1 or self.steps < 1 or self.pool < 1:
            raise user_error("steps, pool and warm_scenes must be positive", where="training")
        if self.minutes < 0:
            raise user_error(f"is {self.minutes:g}", where="minutes", hint="give 0 or more")
        if not 0 <= self.fade < 1:
            raise user_error(f"is {self.fade:g}", where="fade", hint="give 0 or more, under 1")
        layers = (*self.attention_layers, self.flow_layer, self.pose_layer)
        if not self.attention_layers or not all(0 <= i < self.model["depth"] for i in layers):
            raise user_error(
                f"are not all layers of a model of {self.model['depth']}",
                where=f"supervised layers {layers}",
                hint="give attention_layers, flow_layer and pose_layer from 0 on",
            )

    def progress(self, step: int, seconds: float) -> float:
        """Return the position in the schedule, 0 to 1, after some steps and seconds of training."""
        done = seconds / (60 * self.minutes) if self.minutes else step / self.steps
        return min(1.0, done)

    def phase(self, progress: float) -> Phase:
        """Return the phase of a progress from 0 to 1."""
        return next((p for p in self.curriculum if progress < p.until), self.curriculum[-1])

    def to_json(self) -> str:
        """Return the configuration as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> TrainingConfig:
        """Read a configuration from the JSON of `to_json`.

        Raises:
            CovisError: It is no such JSON.
        """
        try:
            record = json.loads(text)
            record["curriculum"] = tuple(
                Phase(p["until"], p["scenes"], tuple(p["views"]), tuple(p["window"]))
                for p in record["curriculum"]
            )
            record["attention_layers"] = tuple(record["attention_layers"])
            return TrainingConfig(**record)
        except (ValueError, KeyError, TypeError) as error:
            raise user_error(
                f"is no configuration of a training run: {error}",
                where="training",
                hint="write one with TrainingConfig(...).to_json()",
            ) from error


# A GPU is fed by larger steps: the kernels of a small model are too short to fill it one by one.
GPU = TrainingConfig(images=768, map_frames=64, scenes_per_step=2.0, warm_scenes=256, pool=4096)
