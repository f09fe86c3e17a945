"""accelerate and restore: sparse global attention in a user's own PyTorch model."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from covis.engines.errors import CovisError, user_error
from covis.engines.options import Sparsity, SparsityChanges
from covis.engines.pair_rules import pair_rules
from covis.engines.regime import Regime
from covis.engines.schedule import check_schedule, layer_regimes, reason, resolve
from covis.export.acceleration.forward import GlobalAttention
from covis.export.acceleration.frames import Frames, read_frames
from covis.export.acceleration.report import LayerReport, Report
from covis.export.acceleration.scenes import Scenes
from covis.export.acceleration.structure import Structure, recognise


def accelerate(model: nn.Module, sparsity: Sparsity | None = None, **changes: Any) -> Accelerated:
    """Make the global attention of a VGGT, Pi3(X) or MapAnything module block-sparse, in place.

    The module is the one of the model's own package, with its weights; it is recognised by its
    structure. Parameters, state dict, device and type stay as they are, and the model is called as
    before. Dense layers go through their own unchanged forward.

    Args:
        model: Module of the model; for VGGT, its aggregator alone is enough.
        sparsity: Selector options; None means the defaults.
        **changes: Fields of `Sparsity` to change, e.g. `selector="anchors"`, `tau=0.8`.

    Returns:
        The state of the model: options to change, and a report of the last call.

    Raises:
        CovisError: a structure that is not recognised, a model that is accelerated already, an
            unknown option, or layers or a schedule that do not fit the model.
    """
    chosen = _changed(sparsity or Sparsity(), changes)
    structure = recognise(model)
    if _owner(structure) is not None:
        raise user_error(
            "is accelerated already",
            where=type(model).__name__,
            hint="change its options with .change(...), or call covis.export.restore first",
        )
    return Accelerated(structure, chosen)


def restore(model: nn.Module) -> None:
    """Restore the own attention of an accelerated model, exactly as it was.

    Raises:
        CovisError: a model that is not accelerated, or whose attention was replaced again since.
    """
    owner = _owner(recognise(model))
    if owner is None:
        raise user_error("is not accelerated", where=type(model).__name__)
    owner.restore()


class Accelerated:
    """State of one accelerated model: its options, and data of its current call.

    One call at a time: the encoder's output determines the blocks of the layers after it. A model
    that is called from several threads at once needs a lock, or one copy a thread.

    Attributes:
        structure: Recognised structure of the model.
        sparsity: Selector options of the next call and later ones.
    """

    sparsity: Sparsity
    _frames: Frames | None  # of the current call, after its encoder has run
    _scenes: Scenes | None  # of the current call, after a sparse layer has run
    _batch: int  # scenes of the current call, 0 until a global layer has run

    def __init__(self, structure: Structure, sparsity: Sparsity) -> None:
        self.structure = structure
        self._set(sparsity)
        self._forwards = [
            GlobalAttention(module, layer, self)
            for layer, module in enumerate(structure.attentions)
        ]
        self._replaced = [module.__dict__.get("forward") for module in structure.attentions]
        self._hook = structure.encoder.register_forward_hook(self._encoded, with_kwargs=True)
        for forward in self._forwards:
            forward.module.forward = forward

    def change(self, **changes: Any) -> None:
        """Change fields of `sparsity`, from the next call of the model on."""
        self._set(_changed(self.sparsity, changes))

    def restore(self) -> None:
        """Restore the model; see `covis.export.restore`."""
        for forward in self._forwards:
            if forward.module.__dict__.get("forward") is not forward:
                raise user_error(
                    "was replaced again after accelerate",
                    where=f"{self.structure.model} global attention {forward.layer}",
                    hint="undo that first",
                )
        for forward, replaced in zip(self._forwards, self._replaced, strict=True):
            if replaced is None:
                del forward.module.forward
            else:
                forward.module.forward = replaced
        self._hook.remove()

    def report(self) -> Report:
        """Report pairs and blocks that the last call computed, layer by layer.

        Raises:
            CovisError: no call since the options were set.
        """
        frames, scenes, batch = self._frames, self._scenes, self._batch
        if frames is None or batch == 0:
            raise self._not_called()
        views = frames.count // batch
        pairs = batch * views * views
        layers = []
        for layer, regime in enumerate(self._regimes(batch)):
            kept, share = pairs, 1.0
            if not regime.is_dense:
                if scenes is None or layer not in scenes.shares:
                    raise self._not_called()
                kept, share = int((scenes.level(layer) > 0).sum()), float(scenes.shares[layer])
            layers.append(LayerReport(layer, str(regime), kept, pairs, share))
        selector = resolve(self.sparsity, views).selector
        why = reason(self.sparsity, views)
        return Report(self.structure.model, selector, why, batch, views, tuple(layers))

    @property
    def similarity(self) -> Tensor:
        """Return the cosine similarities of the last call, float32 (scenes, views, views).

        Use them to choose tau.

        Raises:
            CovisError: no call since the options were set, or no layer that compares views.
        """
        frames, batch = self._frames, self._batch
        if frames is None or batch == 0:
            raise self._not_called()
        if not any(map(_compares, self._regimes(batch))):
            selector = resolve(self.sparsity, frames.count // batch).selector
            raise user_error(
                f"selector {selector!r} compares no views here",
                where="similarity",
                hint="use the selector 'saliency', 'both' or 'anchors'",
            )
        return frames.by_scene(batch, self.structure.view_major)

    def is_sparse(self, layer: int, batch: int) -> bool:
        """Return True if that global layer skips anything; store the batch's number of scenes."""
        if self._frames is None and self.sparsity.selector == "auto":
            raise self._no_frames(layer)
        self._batch = batch
        return not self._regimes(batch)[layer].is_dense

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """Compute attention of a sparse layer; q, k, v and the result are (B, heads, S, D)."""
        shape = (q.shape[0], q.shape[2])
        if self._frames is None:
            raise self._no_frames(layer)
        if self._scenes is None or self._scenes.shape != shape:
            chosen = resolve(self.sparsity, self._frames.count // shape[0])
            self._scenes = Scenes(self._frames, self.structure, chosen, shape, q.device)
        return self._scenes.attend(layer, q, k, v, scale)

    def _set(self, sparsity: Sparsity) -> None:
        depth = len(self.structure.attentions)
        check_schedule(sparsity, depth)
        pair_rules(resolve(sparsity, 1), depth, 1, self.structure.has_reference)
        self.sparsity = sparsity
        self._begin(None)

    def _regimes(self, batch: int) -> tuple[Regime, ...]:
        """Return the regime of each layer in a call of so many scenes."""
        views = 0 if self._frames is None else self._frames.count // batch
        return _layer_regimes(resolve(self.sparsity, views), len(self.structure.attentions))

    def _begin(self, frames: Frames | None) -> None:
        """Reset the state at the start of a call."""
        self._frames = frames
        self._scenes = None
        self._batch = 0

    def _encoded(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        self._begin(read_frames((*args, *kwargs.values()), output, self._may_compare))

    def _may_compare(self, frames: int) -> bool:
        """Return False if no layer of a call of so many frames compares views."""
        # A batch divides the frames among its scenes, and fewer views never compare more.
        chosen = resolve(self.sparsity, frames)
        return any(map(_compares, _layer_regimes(chosen, len(self.structure.attentions))))

    def _no_frames(self, layer: int) -> CovisError:
        return user_error(
            "runs before the encoder",
            where=f"{self.structure.model} global attention {layer}",
            hint="call the whole model: its encoder's output chooses what is computed",
        )

    def _not_called(self) -> CovisError:
        return user_error(
            "has not been called since its options were set",
            where=self.structure.model,
            hint="call the model first",
        )


@lru_cache
def _layer_regimes(sparsity: Sparsity, depth: int) -> tuple[Regime, ...]:
    return layer_regimes(sparsity, depth)


def _compares(regime: Regime) -> bool:
    """Return True if a layer of this regime needs the similarity of views."""
    return regime.kind in ("saliency", "anchors")


def _owner(structure: Structure) -> Accelerated | None:
    """Return the state of an accelerated model, which its replaced forward functions refer to."""
    for module in structure.attentions:
        forward = module.__dict__.get("forward")
        if isinstance(forward, GlobalAttention):
            return forward.owner
    return None


def _changed(sparsity: Sparsity, changes: dict[str, Any]) -> Sparsity:
    known = [field.name for field in fields(SparsityChanges)]
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise user_error(
            f"has no field {', '.join(unknown)}",
            where="Sparsity",
            hint=f"known: {', '.join(known)}",
        )
    return SparsityChanges(**changes).apply(sparsity)
