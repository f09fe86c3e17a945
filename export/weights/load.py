"""Checkpoints: find them, read safetensors, check them against a model, and load them into it."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from covis.engines.errors import (
    CovisError,
    environment_error,
    numerics_error,
    printable,
    user_error,
)
from covis.export.weights.page_cache import release_pages

NAMES_SHOWN = 8
_HEADER_LIMIT = 100_000_000  # bytes of a header; the safetensors format allows no more
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
# Keys that only one model has; error messages name the model of a checkpoint by them.
_FINGERPRINTS = {
    "VGGT": "aggregator.camera_token",
    "pi^3": "point_decoder.projects.weight",
    "Pi3X (not supported)": "metric_token",
    "MapAnything": "scale_token",
}


def find_weights(weights: Path | str, revision: str | None = None) -> Path:
    """Return the safetensors file of a path or of a Hugging Face id such as `facebook/VGGT-1B`.

    Args:
        weights: Existing file, or `owner/name` on the hub.
        revision: Commit, tag or branch on the hub.

    Raises:
        CovisError: no such file, a pickle, or a hub that cannot be reached.
    """
    path = Path(weights).expanduser()
    if path.suffix.lower() in _PICKLES:
        raise user_error(
            "this is a pickle, and opening a pickle runs code that it holds",
            where=path,
            hint="use the .safetensors file of the same model",
        )
    if path.is_file():
        return path
    if path.is_dir():
        raise user_error("this is a folder", where=path, hint="name the .safetensors file in it")
    if path.suffix == ".safetensors" or str(weights).count("/") != 1:
        raise user_error("no such weights file", where=path, hint="check the path")
    file = Path(download(str(weights), "model.safetensors", revision))
    # Some models publish their sizes in a file beside the weights; others have no such file.
    with contextlib.suppress(CovisError):
        download(str(weights), "config.json", revision)
    return file


def download(repository: str, filename: str, revision: str | None) -> str:
    """Return one file of a hub repository, from the local cache if it is there."""
    from huggingface_hub import hf_hub_download

    try:
        return str(hf_hub_download(repository, filename, revision=revision))
    except Exception as error:  # the hub client raises a dozen unrelated types
        reason = printable(str(error)).strip().splitlines()[0][:200]
        raise environment_error(
            f"{filename} could not be fetched from the Hugging Face hub ({reason})",
            where=repository,
            hint="check the name and the network, or pass the path of a downloaded file",
        ) from error


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a safetensors file by key, without reading its data.

    Raises:
        CovisError: the file is not safetensors, or its data are truncated.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by key, mapped into memory and not copied."""
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> CovisError:
    """Return the error of a file that is truncated or not a safetensors file."""
    size = path.stat().st_size if path.is_file() else 0
    expected = 0
    with contextlib.suppress(OSError, ValueError, struct.error, TypeError, KeyError):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            start = file.read(min(length, _HEADER_LIMIT))
        if length <= _HEADER_LIMIT and start[:1] in (b"{", b""):
            expected = 8 + length
            entries = [v for k, v in json.loads(start).items() if k != "__metadata__"]
            expected += max((v["data_offsets"][1] for v in entries), default=0)
    if expected > size:
        return user_error(
            f"the file is cut short: {size} bytes of at least {expected}",
            where=path,
            hint="download it again",
        )
    return user_error(
        f"not a readable safetensors file ({printable(str(error))})",
        where=path,
        hint="pass the .safetensors file of the model",
    )


def canonical(keys: Iterable[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Map official keys to keys in the checkpoint, after renaming the prefixes in `aliases`."""
    found: dict[str, str] = {}
    for key in keys:
        name = key
        for alias, official in aliases.items():
            if name.startswith(alias):
                name = official + name[len(alias) :]
        if name not in found or key == name:
            found[name] = key
    return found


def check_keys(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    ignored: tuple[str, ...] = (),
    *,
    where: str | Path,
    model: str,
) -> None:
    """Compare names and shapes, and report every difference in one error.

    Args:
        expected: Shapes of the model by key.
        found: Shapes of the checkpoint by official key.
        ignored: Prefixes of keys that the model does not use.
        where: Checkpoint, for the message.
        model: Name of the model, for the message.
    """
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(k for k in found.keys() - expected.keys() if not k.startswith(ignored))
    shapes = sorted(k for k in expected.keys() & found.keys() if expected[k] != found[k])
    if not (missing or extra or shapes):
        return
    faults = []
    if missing:
        faults.append(f"{len(missing)} missing ({_some(missing)})")
    if extra:
        faults.append(f"{len(extra)} unknown ({_some(extra)})")
    if shapes:
        differing = [f"{k} is {list(found[k])}, not {list(expected[k])}" for k in shapes]
        faults.append(f"{len(shapes)} of another shape ({_some(differing)})")
    raise user_error(
        f"no {model} of this configuration: " + ", ".join(faults),
        where=where,
        hint=_advice(found, expected),
    )


def identify(keys: Iterable[str]) -> str | None:
    """Return the model that a checkpoint belongs to, by the keys that only that model has."""
    present = set(keys)
    for model, key in _FINGERPRINTS.items():
        if key in present:
            if model == "pi^3" and _FINGERPRINTS["Pi3X (not supported)"] in present:
                continue
            if model == "MapAnything":
                old = "encoder.model.norm.weight" in present
                return f"MapAnything {'V1' if old else 'V1.1'}"
            return model
    return None


def _advice(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    is_, should = identify(found), identify(expected)
    if is_ != should:
        return f"this is a checkpoint of {is_ or 'none of the known models'}; pass one of {should}"
    return "pass the configuration that the weights were trained with"


def _some(names: list[str]) -> str:
    rest = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


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
            f"{len(broken)} weights hold NaN or infinity ({_some(sorted(broken))})",
            where=where,
            hint="download or train them again",
        )
    model.load_state_dict(state, strict=True, assign=True)
