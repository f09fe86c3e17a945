"""Recognise a published model by its structure: which modules to observe and which to replace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from covis.engines.errors import CovisError, user_error

LOOKED_FOR = (
    "VGGT has aggregator.patch_embed, aggregator.global_blocks and aggregator.register_token; "
    "Pi3 and Pi3X have encoder, decoder and register_token; "
    "MapAnything has encoder, info_sharing.self_attention_blocks and scale_token"
)
_REQUIRED = ("qkv", "proj", "num_heads")
# Options of MapAnything's attention that make scores depend on the number of tokens.
_UNSUPPORTED = ("use_scalable_softmax", "use_entropy_scaling")


@dataclass(frozen=True)
class Structure:
    """The parts of a model that acceleration uses, and the order of its tokens.

    Attributes:
        model: Name of the model.
        encoder: Module whose output contains the patch tokens of all frames of a call.
        attentions: Attention modules over all views, in running order.
        special: Possible numbers of special tokens of a frame.
        special_first: True if special tokens precede the patches, False if they follow them.
        trailing: Tokens after the last frame.
        view_major: True if the encoder's frames are ordered (view, scene), False for (scene, view).
        has_reference: True if view 0 is the reference view.
        cast_before_rotation: True if queries and keys are cast to the type of the values before
            they are rotated.
    """

    model: str
    encoder: nn.Module
    attentions: tuple[nn.Module, ...]
    special: tuple[int, ...]
    special_first: bool
    has_reference: bool
    trailing: int = 0
    view_major: bool = False
    cast_before_rotation: bool = False


def recognise(model: nn.Module) -> Structure:
    """Return the structure of a VGGT (or its aggregator), Pi3, Pi3X or MapAnything module.

    Raises:
        CovisError: none of them, or one whose attention is not computed as published. The text
            lists what was looked for.
    """
    structure = _vggt(model) or _map_anything(model) or _pi3(model)
    if structure is None:
        raise user_error(
            "none of the models whose attention can be replaced",
            where=type(model).__name__,
            hint=LOOKED_FOR,
        )
    for index, attention in enumerate(structure.attentions):
        _check_attention(structure.model, index, attention)
    return structure


def _vggt(model: Any) -> Structure | None:
    aggregator = getattr(model, "aggregator", model)
    if not _has(aggregator, "patch_embed", "global_blocks", "register_token"):
        return None
    return Structure(
        "VGGT",
        aggregator.patch_embed,
        _attentions("VGGT", aggregator.global_blocks),
        special=(1 + int(aggregator.register_token.shape[-2]),),  # the camera token is the first
        special_first=True,
        has_reference=True,
    )


def _pi3(model: Any) -> Structure | None:
    if not _has(model, "encoder", "decoder", "register_token"):
        return None
    # Pi3X adds depth, rays and poses of the user to the tokens, beside the decoder's attention: its
    # encoder of depth and its blocks for poses are other modules, and stay as they are.
    name = "Pi3X" if hasattr(model, "metric_token") else "Pi3"
    return Structure(
        name,
        model.encoder,
        _attentions(name, list(model.decoder)[1::2]),  # even blocks stay within a frame
        special=(int(model.register_token.shape[-2]),),
        special_first=True,
        has_reference=False,
        cast_before_rotation=True,
    )


def _map_anything(model: Any) -> Structure | None:
    sharing: Any = getattr(model, "info_sharing", None)
    if not _has(model, "encoder", "scale_token") or not _has(sharing, "self_attention_blocks"):
        return None
    kind = getattr(model, "info_sharing_type", "alternating_attention")
    if kind != "alternating_attention":
        raise user_error(
            f"has info_sharing_type = {kind!r}",
            where=type(model).__name__,
            hint="only 'alternating_attention' is supported",
        )
    blocks = list(sharing.self_attention_blocks)[::2]  # odd blocks stay within a frame
    return Structure(
        "MapAnything",
        model.encoder,
        _attentions("MapAnything", blocks),
        special=(0, 1),  # V1.1 includes the encoder's class token, V1 does not
        special_first=False,
        has_reference=True,
        trailing=1,
        view_major=True,
    )


def _has(module: object, *names: str) -> bool:
    return all(getattr(module, name, None) is not None for name in names)


def _attentions(model: str, blocks: Any) -> tuple[nn.Module, ...]:
    attentions = [getattr(block, "attn", None) for block in blocks]
    found = tuple(a for a in attentions if isinstance(a, nn.Module))
    if not found or len(found) < len(attentions):
        raise user_error(
            f"{len(found)} of its {len(attentions)} global blocks have an attention",
            where=model,
            hint="looked for the name attn in each block",
        )
    return found


def _check_attention(model: str, index: int, attention: Any) -> None:
    def wrong(what: str, hint: str) -> CovisError:
        return user_error(what, where=f"{model} global attention {index}", hint=hint)

    missing = [name for name in _REQUIRED if not _has(attention, name)]
    if missing:
        raise wrong(f"has no {', '.join(missing)}", f"looked for {', '.join(_REQUIRED)}")
    scaled = [name for name in _UNSUPPORTED if getattr(attention, name, False)]
    if scaled:
        raise wrong(f"has {scaled[0]} set", "only plain softmax attention can be replaced")
