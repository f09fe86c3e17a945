"""A dataset of synthetic scenes of which some kill the process that loads them."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from covis.evaluation.datasets.synthetic import SyntheticScenes
from covis.evaluation.datasets.truth import GroundTruth, SceneRef


@dataclass(frozen=True)
class Crashing:
    """As `SyntheticScenes`; a scene whose seed is in `deadly` kills its loader that many times.

    Attributes:
        log: folder that gets a file for each attempt.
        deadly: seed -> how many of its attempts end in SIGKILL.
        faulty: seeds whose loading is a defect of ours.
    """

    log: Path
    seeds: range
    deadly: dict[int, int] = field(default_factory=dict)
    faulty: tuple[int, ...] = ()
    name: str = "crashing"

    @property
    def _rendered(self) -> SyntheticScenes:
        return SyntheticScenes((f"studio/orbit/{self.seeds[0]}-{self.seeds[-1]}/3",), (126, 168))

    def scenes(self) -> list[SceneRef]:
        return self._rendered.scenes()

    def settings(self) -> dict[str, object]:
        return self._rendered.settings()

    def load(self, ref: SceneRef) -> GroundTruth:
        seed = ref.key[2]
        attempt = len(list(self.log.glob(f"{seed}.*")))
        (self.log / f"{seed}.{attempt}").touch()
        if attempt < self.deadly.get(seed, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if seed in self.faulty:
            raise ZeroDivisionError("as if by accident")
        return self._rendered.load(ref)
