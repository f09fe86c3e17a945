"""Parts of the accuracy benchmark: which settings run on which scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from accuracy.requests import Draw, SceneRequest
from accuracy.settings import (
    ATTENTION,
    ESTIMATORS,
    Setting,
    choices,
    layers,
    options,
    precisions,
)

WIDE_KINDS = ("room/arc", "room/orbit", "objects/orbit", "studio/orbit")
LAYER_VIEWS = 24
"""Views of the scenes of the parts `layers` and `precision`."""


@dataclass(frozen=True)
class Amount:
    """Number of scenes of each kind, by part.

    Attributes:
        estimators: Scenes of 8 views, for dense attention against baselines.
        choices: Scenes by number of views, for choices of pairs and anchors.
        options: Scenes by number of views, for thresholds, pooled blocks and schedules.
        layers: Scenes for the layer-drop curves.
        precision: Scenes for low precision.
        attention: Scenes for the statistics of attention.
    """

    estimators: int = 16
    choices: dict[int, int] = field(default_factory=lambda: {12: 6, 24: 6, 48: 2, 96: 1})
    options: dict[int, int] = field(default_factory=lambda: {24: 3})
    layers: int = 3
    precision: int = 3
    attention: int = 2


QUICK = Amount(4, {12: 2, 24: 2}, {24: 1}, 1, 1, 1)


@dataclass(frozen=True)
class Part:
    """Settings on scenes.

    Attributes:
        name: Name in the record.
        kinds: Kinds of scenes.
        scenes: Number of scenes of each kind.
        views: Number of views of a scene.
        draw: Choice of the views.
        settings: Settings, dense first where it is one of them.
        depth: True if depth is measured.
        size: Side of the images in pixels.
    """

    name: str
    kinds: tuple[str, ...]
    scenes: int
    views: int
    draw: Draw
    settings: tuple[Setting, ...]
    depth: bool = False
    size: int = 112

    def requests(self) -> list[SceneRequest]:
        """Return the scenes, the first of every kind first."""
        return [
            SceneRequest(kind, number, self.views, self.draw, self.size)
            for number in range(self.scenes)
            for kind in self.kinds
        ]


def parts(
    amount: Amount, kinds: Sequence[str], wide: Sequence[str], depth: int, size: int
) -> list[Part]:
    """Return all parts.

    Args:
        amount: Number of scenes.
        kinds: Kinds of the scenes of 8 views.
        wide: Kinds of the scenes of many views.
        depth: Number of global layers of the model.
        size: Side of the images in pixels.
    """

    def along(name: str, scenes: int, views: int, settings: Sequence[Setting]) -> Part:
        return Part(name, tuple(wide), scenes, views, "along", tuple(settings), size=size)

    found = [
        Part("estimators", tuple(kinds), amount.estimators, 8, "random", ESTIMATORS, True, size),
        *(along(f"choices-{m}", n, m, choices(m)) for m, n in amount.choices.items()),
        *(along(f"options-{m}", n, m, options(depth, m // 4)) for m, n in amount.options.items()),
        along("layers", amount.layers, LAYER_VIEWS, layers(depth)),
        along("precision", amount.precision, LAYER_VIEWS, precisions()),
        along("attention", amount.attention, LAYER_VIEWS, [ATTENTION]),
    ]
    return [part for part in found if part.scenes and part.kinds]


def tasks(every: Sequence[Part]) -> list[tuple[SceneRequest, list[Setting], bool]]:
    """Return each scene with the settings of all parts, and whether depth is measured on it.

    Scenes of few views come first, so that an interrupted run has complete parts.
    """
    settings: dict[SceneRequest, dict[str, Setting]] = {}
    depth: dict[SceneRequest, bool] = {}
    for part in every:
        for request in part.requests():
            settings.setdefault(request, {}).update({s.key: s for s in part.settings})
            depth[request] = depth.get(request, False) or part.depth
    order = sorted(settings, key=lambda request: (request.views, request.number))
    return [(request, list(settings[request].values()), depth[request]) for request in order]
