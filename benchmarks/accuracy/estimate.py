"""Cameras of one scene in any setting, by the torch model; the images are encoded once."""

from __future__ import annotations

import copy
import math
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accuracy.attention import attention
from accuracy.scenes import HeldOut, mean_training_pose
from accuracy.settings import MINI, Setting
from covis.engines.bundle.bundle import Bundle
from covis.engines.pair_rules import pair_rules
from covis.evaluation.accuracy.scoring import Record, score_pose
from covis.evaluation.metrics.depth import depth_errors
from covis.evaluation.metrics.pose import pair_errors
from covis.evaluation.sweep.coverage import most_covering
from covis.evaluation.sweep.pairs import pair_map, random_score
from covis.export.attention_analysis import model_of_bundle
from covis.export.models.cameras import pose_to_cameras
from covis.export.models.multiview import patch_grid
from covis.export.ops.fp8 import low_precision
from covis.export.selection.block_maps import PairSelection, PooledSelection
from covis.export.selection.pair_rules import PairRules
from covis.export.selection.saliency import Saliency
from covis.export.training.evaluate import each_view_alone

Array = NDArray[Any]


class Model:
    """Torch model of a bundle, in float32 and float16, with the bundle's saliency stage."""

    def __init__(self, bundle: Bundle) -> None:
        rule = bundle.manifest.pixel_rule
        self.size = rule.height
        self.whole: Any = model_of_bundle(bundle)
        self.saliency = Saliency(*patch_grid(rule.height, rule.width), bundle.manifest.pooling)
        self.depth = self.whole.global_layers

    @cached_property
    def half(self) -> Any:
        """The same weights in float16."""
        return copy.deepcopy(self.whole).half()


class Estimator:
    """Estimator of one scene.

    Args:
        model: Model of a bundle.
        scene: Rendered scene.
    """

    def __init__(self, model: Model, scene: HeldOut) -> None:
        self.model, self.scene = model, scene
        self.views = scene.request.views
        self._tokens: dict[bool, Tensor] = {}

    def record(self, setting: Setting, with_depth: bool = False) -> Record:
        """Return the errors of a setting, or the statistics of attention.

        Args:
            setting: Setting to measure.
            with_depth: Measure depth as well.

        Returns:
            The record of `score_pose` without its histograms; `abs_rel` and `delta_1.25` with
            depth; `work`: share of dense global attention between patches that is computed, over
            all layers; `moved`: median angle of pairs to the cameras of dense attention, degrees.
        """
        if setting.model == "attention":
            return {"layers": attention(self.model.whole, self.scene)}
        extrinsics, depth, work = self.predict(setting, with_depth)
        found = score_pose(extrinsics, self.scene.truth)
        record = {k: v for k, v in found.items() if not k.startswith("histograms")}
        record["work"] = work
        record["moved"] = float(np.median(np.maximum(*pair_errors(extrinsics, self.dense))))
        if depth is not None:
            true = self.scene.view["depth"].double().numpy()
            names = ("abs_rel", "delta_1.25")
            record |= zip(names, depth_errors(depth.ravel(), true.ravel()), strict=True)
        return record

    @cached_property
    def dense(self) -> Array:
        """Extrinsics (M, 3, 4) by dense attention in float32."""
        return self.predict(MINI)[0]

    def predict(
        self, setting: Setting, with_depth: bool = False
    ) -> tuple[Array, Array | None, float]:
        """Return extrinsics (M, 3, 4), depth (M, H, W), and the share of attention computed."""
        if setting.model in ("identity", "mean pose"):
            cameras = np.tile(np.eye(3, 4), (self.views, 1, 1))
            if setting.model == "mean pose":
                cameras[1:] = _mean_pose(self.scene.request.kind)
            return cameras, None, 0.0
        height, width = self.scene.images.shape[-2:]
        with torch.no_grad():
            if setting.model == "alone":
                pose, depth = each_view_alone(self.model.whole)(self.scene.images[None])
                assert depth is not None
                return _extrinsics(pose[0], height, width), depth[0].numpy(), 1 / self.views
            model = self.model.half if setting.half else self.model.whole
            tokens = self._encoded(setting.half)
            selection = self._selection(setting)
            with low_precision("fp8" if setting.low else "exact"):
                camera, *taps = model.aggregate((tokens[None],), height, width, selection)
            extrinsics = _extrinsics(model.camera_head(camera)[0], height, width)
            depth = model.depth([tap[0] for tap in taps], height, width)[0] if with_depth else None
        found = None if depth is None else depth.float().numpy()
        return extrinsics, found, _work(selection, self.model.depth)

    def _encoded(self, half: bool = False) -> Tensor:
        if half not in self._tokens:
            model = self.model.half if half else self.model.whole
            images = self.scene.images.half() if half else self.scene.images
            self._tokens[half] = model.encode(images)[0]
        return self._tokens[half]

    def _selection(self, setting: Setting) -> PairSelection | PooledSelection:
        """Return the maps of a setting, by the rules of the product and its saliency stage."""
        rules = pair_rules(setting.sparsity, self.model.depth, self.views, has_reference=True)
        order = rules.anchor_order.copy()
        if setting.covering:
            chosen = most_covering(self.scene.covisibility, int(rules.anchors.max()), 0)
            order[: len(chosen)] = chosen
        numbers = (torch.from_numpy(np.asarray(getattr(rules, n))) for n in PairRules._fields)
        tokens = self._encoded()
        similarity, _, levels = self.model.saliency(tokens, torch.from_numpy(order), *numbers)
        levels = levels.to(torch.int8)
        if setting.pairs is not None:
            given = torch.from_numpy(self._pairs(setting, similarity.numpy()))
            for number, regime in zip(rules.layer_map.tolist(), rules.regimes, strict=True):
                if regime.kind == "saliency":
                    levels[number] = given
        if setting.low:
            levels = levels.clamp(min=1)
        layer_map = torch.from_numpy(rules.layer_map)
        height, width = self.scene.images.shape[-2:]
        if any(regime.pooled for regime in rules.regimes):
            return PooledSelection(
                levels,
                layer_map,
                torch.from_numpy(rules.keep_ratio),
                torch.from_numpy(rules.cdf),
                self.model.whole.layout(height, width),
            )
        return PairSelection(levels, layer_map, math.prod(patch_grid(height, width)))

    def _pairs(self, setting: Setting, similarity: Array) -> NDArray[np.int8]:
        """Return the map (M, M) of a fixed number of pairs; a share of 0 selects none at all."""
        if setting.share == 0.0:
            return np.zeros((self.views, self.views), np.int8)
        if setting.pairs == "saliency":
            score = similarity
        elif setting.pairs == "oracle":
            score = self.scene.covisibility
        else:
            # Another choice in every scene, so that the mean over scenes is one over choices.
            score = random_score(self.views, 10_000 * setting.seed + self.scene.request.number)
        return pair_map(score, setting.share, reference=setting.sparsity.reference)


def _extrinsics(pose: Tensor, height: int, width: int) -> Array:
    extrinsics, _ = pose_to_cameras(pose.double(), height, width)
    found: Array = extrinsics.numpy()
    return found


def _work(selection: PairSelection | PooledSelection, depth: int) -> float:
    """Return the mean over layers of the share of blocks of patches that are computed."""
    if isinstance(selection, PooledSelection):
        return float(np.mean([torch.cat(selection.shares[i]).mean() for i in range(depth)]))
    shares = (selection.pair_levels > 0).double().mean(dim=(1, 2))
    return float(shares[selection.layer_map].mean())


@cache
def _mean_pose(kind: str) -> Array:
    return mean_training_pose(kind)
