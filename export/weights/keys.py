"""Names of the tensors of a checkpoint: wrappers and aliases, and the check against a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from covis.engines.errors import printable, user_error

NAMES_SHOWN: Final = 8
# Modules that training wraps around a model: DistributedDataParallel and DataParallel, Lightning
# and similar frameworks (as a prefix of every key); torch.compile, FSDP, checkpointing (anywhere).
_OUTER = ("module", "model")
_ANYWHERE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Keys that only one model has; error messages name the model of a checkpoint by them.
_FINGERPRINTS = {
    "VGGT": "aggregator.camera_token",
    "pi^3": "point_decoder.projects.weight",
    "Pi3X (not supported)": "metric_token",
    "MapAnything": "scale_token",
}


def canonical(keys: Iterable[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Map official keys to keys in the checkpoint.

    Wrappers of training are left out: `module.` and `model.` where every key begins with it, also
    several times, and the names that torch reserves (`_orig_mod`) wherever they stand. Then the
    prefixes in `aliases` are renamed.

    Raises:
        CovisError: two keys that differ by their wrappers alone.
    """
    found: dict[str, str] = {}
    own: dict[str, str] = {}
    for name, key in _unwrapped(list(keys)):
        if name in own:
            raise user_error(
                f"{printable(own[name])} and {printable(key)} are the same weight",
                where="weights",
                hint="keep one of them",
            )
        own[name] = key
        official = name
        for alias, renamed in aliases.items():
            if official.startswith(alias):
                official = renamed + official[len(alias) :]
        if official not in found or official == name:
            found[official] = key
    return found


def _unwrapped(keys: list[str]) -> list[tuple[str, str]]:
    """Return (name without wrappers, key) of every key."""
    names = [".".join(p for p in key.split(".") if p not in _ANYWHERE) for key in keys]
    while outer := next((w for w in _OUTER if names and _all_below(w, names)), None):
        names = [name[len(outer) + 1 :] for name in names]
    return list(zip(names, keys, strict=True))


def _all_below(module: str, names: list[str]) -> bool:
    return all(name.startswith(f"{module}.") and len(name) > len(module) + 1 for name in names)


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
    absent = _absent_modules(missing, expected)
    faults = []
    if missing:
        rest = [key for key in missing if key.partition(".")[0] not in absent]
        named = [f"all of {module}" for module in absent] + rest
        faults.append(f"{len(missing)} missing ({some(named)})")
    if extra:
        faults.append(f"{len(extra)} unknown ({some(extra)})")
    if shapes:
        differing = [f"{k} is {list(found[k])}, not {list(expected[k])}" for k in shapes]
        faults.append(f"{len(shapes)} of another shape ({some(differing)})")
    raise user_error(
        f"no {model} of this configuration: " + ", ".join(faults),
        where=where,
        hint=_advice(found, expected, absent if not (extra or shapes) else []),
    )


def _absent_modules(missing: list[str], expected: Mapping[str, Any]) -> list[str]:
    """Return the modules of the model (first names of keys) that have no key at all."""
    every, gone = (Counter(k.partition(".")[0] for k in keys) for keys in (expected, missing))
    return [m for m, count in gone.items() if count == every[m] and m not in expected]


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


def _advice(found: Mapping[str, Any], expected: Mapping[str, Any], absent: list[str]) -> str:
    is_, should = identify(found), identify(expected)
    if is_ != should:
        return f"this is a checkpoint of {is_ or 'none of the known models'}; pass one of {should}"
    if absent:
        return f"a bundle needs {' and '.join(absent)}: pass weights that contain it"
    advice = "pass the configuration that the weights were trained with (--config FILE.json)"
    if not (is_ or "").startswith("MapAnything"):
        return advice
    return f"{advice}: for MapAnything the config.json of the weights that training started from"


def some(names: list[str]) -> str:
    """Return the first names of a list, and the number of the others."""
    rest = len(names) - NAMES_SHOWN
    shown = ", ".join(printable(name)[:200] for name in names[:NAMES_SHOWN])
    return shown + (f" and {rest} more" if rest > 0 else "")
