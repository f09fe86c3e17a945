"""Read the tensors of a checkpoint, and load them into a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from covis.engines.errors import first_line, numerics_error, user_error
from covis.export.weights.keys import canonical, check_keys, some
from covis.export.weights.page_cache import release_pages
from covis.export.weights.shards import checkpoint_entries


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by key, mapped into memory and not copied.

    Args:
        path: Safetensors file, or the index of a sharded checkpoint.

    Raises:
        CovisError: see `checkpoint_entries`.
    """
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for file in checkpoint_entries(path):
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise user_error(
                f"not a readable safetensors file ({first_line(error)})",
                where=file,
                hint="pass the .safetensors file of the model",
            ) from error
    return tensors


def fill(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    *,
    where: str | Path,
    name: str,
    ignored: tuple[str, ...] = (),
    aliases: Mapping[str, str] | None = None,
    ours: bool = False,
) -> None:
    """Load a checkpoint into a model (on any device, meta included), as float32 on the CPU.

    Args:
        model: Model whose parameters and buffers are replaced.
        weights: Tensors by key, under official names or aliases.
        where: Checkpoint, for messages.
        name: Name of the model, for messages.
        ignored: Prefixes of keys that the model does not use.
        aliases: Official prefix by the prefix that stands for it.
        ours: True if the tensors are unchanged views of a mapped file, so that their pages may be
            dropped after the check. A caller may have written to tensors of its own, so their pages
            must stay.

    Raises:
        CovisError: names or shapes that differ, all in one; weights with NaN or infinity.
    """
    source = canonical(weights, aliases or {})
    shapes = {official: tuple(weights[key].shape) for official, key in source.items()}
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    check_keys(expected, shapes, ignored, where=where, model=name)
    state: dict[str, Tensor] = {}
    broken: list[str] = []
    for key in expected:
        value = weights[source[key]].detach().to(torch.float32)
        low, high = torch.aminmax(value)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            broken.append(key)
        state[key] = value
        if ours:  # reading a large file once must not keep it in memory
            release_pages([value])
    if broken:
        raise numerics_error(
            f"{len(broken)} weights hold NaN or infinity ({some(sorted(broken))})",
            where=where,
            hint="download or train them again",
        )
    model.load_state_dict(state, strict=True, assign=True)
