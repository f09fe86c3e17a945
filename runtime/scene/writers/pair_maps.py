"""Maps of view pairs as the pictures show them: with the layers that use each, and its anchors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from covis.engines.layers import format_layers
from covis.engines.regime import Regime, parse_schedule
from covis.runtime.scene.scene import Scene


class PairMap(NamedTuple):
    """Map of view pairs that some of the global layers use.

    Attributes:
        label: Layers and their regime, such as "layers 9-23: anchors=25".
        level: (M, M) levels of the pairs, 0, 1 or 2; row i lists what view i attends to.
        anchors: Indices of the anchors to which every view attends, in the order of the choice.
        layers: Number of layers that use the map.
    """

    label: str
    level: NDArray[np.int8]
    anchors: tuple[int, ...] = ()
    layers: int = 0


def pair_maps(scene: Scene) -> tuple[PairMap, ...]:
    """Return the maps of a scene's sparse layers, in the order of the layers.

    A map that keeps every pair shows nothing, and is returned only if there is no other.
    """
    levels, layer_map = scene.pair_levels, scene.layer_map
    if levels is None or layer_map is None:
        return ()
    anchors = () if scene.anchors is None else tuple(scene.anchors.tolist())
    regimes = _regimes(scene, len(layer_map))
    maps = []
    for index in dict.fromkeys(layer_map.tolist()):
        layers, level = np.flatnonzero(layer_map == index).tolist(), levels[index]
        seen = tuple(view for view in anchors if (level[:, view] == 2).all())
        maps.append(PairMap(_label(layers, regimes), level, seen, len(layers)))
    sparse = tuple(each for each in maps if (each.level != 2).any())
    return sparse or tuple(maps[:1])


def _regimes(scene: Scene, depth: int) -> tuple[Regime, ...] | None:
    if scene.sparsity is None or not scene.sparsity.schedule:
        return None
    return parse_schedule(scene.sparsity.schedule, depth)


def _label(layers: list[int], regimes: tuple[Regime, ...] | None) -> str:
    """Name the layers, and their regimes, of which several can lead to the same map."""
    name = f"{'layer' if len(layers) == 1 else 'layers'} {format_layers(layers)}"
    if regimes is None:
        return name
    return f"{name}: {' or '.join(dict.fromkeys(str(regimes[layer]) for layer in layers))}"
