"""accelerate and restore: sparse global attention in a user's own PyTorch model."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from covis.engines.errors import CovisError, user_error
from covis.engines.layers import parse_layers
from covis.engines.options import Sparsity, SparsityChanges
from covis.export.acceleration.forward import GlobalAttention
from covis.export.acceleration.frames import Frames, read_frames
from covis.export.acceleration.report import LayerReport, Report
from covis.export.acceleration.scenes import Scenes
from covis.export.acceleration.structure import Structure, recognise


def accelerate(model: nn.Module, sparsity: Sparsity | None = None, **changes: Any) -> Accelerated:
    """Make the global attention of a VGGT, Pi3(X) or MapAnything module block-sparse, in place.

    The module is the one of the model's own package, with its weights; it is recognised by its
    structure. Parameters, state dict, device and type stay as they are, and the model is called as
    before. Layers outside `sparsity.layers` go through their own unchanged forward.

    Args:
        model: Module of the model; for VGGT, its aggregator alone is enough.
        sparsity: Selector options; None means the defaults.
        **changes: Fields of `Sparsity` to change, e.g. `selector="pooled"`, `tau=0.8`.

    Returns:
        The state of the model: options to change, and a report of the last call.

    Raises:
        CovisError: a structure that is not recognised, a model that is accelerated already, or
            an unknown option.
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
    _layers: frozenset[int]  # indices of the sparse layers
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
        if frames is None or batch == 0 or (scenes is None and self._layers):
            raise self._not_called()
        views = frames.count // batch
        pairs = batch * views * views
        kept_pairs = pairs
        if scenes is not None and scenes.pair_level.numel() > 1:
            kept_pairs = int((scenes.pair_level > 0).sum())
        layers = []
        for layer in range(len(self.structure.attentions)):
            if scenes is not None and layer in scenes.shares:
                share = float(scenes.shares[layer])
                layers.append(LayerReport(layer, kept_pairs, pairs, share))
            else:
                layers.append(LayerReport(layer, pairs, pairs, 1.0))
        model, selector = self.structure.model, self.sparsity.selector
        return Report(model, selector, batch, views, tuple(layers))

    @property
    def similarity(self) -> Tensor:
        """Return the cosine similarities of the last call, float32 (scenes, views, views).

        Use them to choose tau.

        Raises:
            CovisError: no call since the options were set, or a selector that does not compute
                them.
        """
        if self.sparsity.selector not in ("saliency", "both"):
            raise user_error(
                f"selector {self.sparsity.selector!r} compares no views",
                where="similarity",
                hint="use the selector 'saliency' or 'both'",
            )
        if self._scenes is None or self._scenes.similarity is None:
            raise self._not_called()
        return self._scenes.similarity

    def is_sparse(self, layer: int, batch: int) -> bool:
        """Return True if that global layer skips anything; store the batch's number of scenes."""
        self._batch = batch
        return layer in self._layers

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """Compute attention of a sparse layer; q, k, v and the result are (B, heads, S, D)."""
        shape = (q.shape[0], q.shape[2])
        if self._frames is None:
            raise user_error(
                "runs before the encoder",
                where=f"{self.structure.model} global attention {layer}",
                hint="call the whole model: its encoder's output chooses what is computed",
            )
        if self._scenes is None or self._scenes.shape != shape:
            self._scenes = Scenes(self._frames, self.structure, self.sparsity, shape, q.device)
        return self._scenes.attend(layer, q, k, v, scale)

    def _set(self, sparsity: Sparsity) -> None:
        layers = parse_layers(sparsity.layers, len(self.structure.attentions))
        self._layers = frozenset(() if sparsity.selector == "dense" else layers)
        self.sparsity = sparsity
        self._begin(None)

    def _begin(self, frames: Frames | None) -> None:
        """Reset the state at the start of a call."""
        self._frames = frames
        self._scenes = None
        self._batch = 0

    def _encoded(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        needed = bool(self._layers) and self.sparsity.selector in ("saliency", "both")
        self._begin(read_frames((*args, *kwargs.values()), output, needed))

    def _not_called(self) -> CovisError:
        return user_error(
            "has not been called since its options were set",
            where=self.structure.model,
            hint="call the model first",
        )


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
