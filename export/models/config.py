"""Model configurations: frozen dataclasses, built from mappings with every mistake reported."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

from covis.engines.errors import user_error
from covis.engines.limits import Limit

_FAULTS_SHOWN: Final = 8
C = TypeVar("C")


def from_mapping(
    kind: type[C], mapping: Mapping[str, Any] | None, notes: Collection[str] = ()
) -> C:
    """Build the configuration `kind` from fields; missing fields get the official model's values.

    Args:
        kind: Frozen dataclass of numbers, booleans and tuples of integers.
        mapping: Value of each field by name, lists for tuples; None: the official model.
        notes: Names (or prefixes ending in `*`) that are allowed and ignored.

    Raises:
        CovisError: unknown fields or values of a wrong type, all in one line.
    """
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    faults: list[str] = []
    for name, value in (mapping or {}).items():
        if name in known:
            try:
                values[name] = _as(hints[name], value)
            except TypeError:
                faults.append(
                    f"{name} = {reprlib.repr(value)} is not of type {_words(hints[name])}"
                )
        elif not _is_note(name, notes):
            faults.append(f"unknown field {reprlib.repr(name)}")
    if faults:
        rest = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        raise user_error(
            "; ".join(faults[:_FAULTS_SHOWN]) + rest,
            where=f"{kind.__name__}",
            hint=f"known: {', '.join(sorted(known))}",
        )
    return kind(**values)


def refuse(kind: type, faults: list[str]) -> None:
    """Raise one error with all contradictions of a configuration, if there are any."""
    if faults:
        raise user_error(
            "; ".join(faults), where=kind.__name__, hint="correct these fields of the configuration"
        )


def within(config: object, limit: Limit, *names: str) -> list[str]:
    """Return the named fields (numbers or tuples of them) that are not all in (0, limit], as
    faults.
    """
    faults = []
    for name in names:
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if not all(v > 0 for v in values):  # NaN neither
            faults.append(f"{name} = {reprlib.repr(value)} must be above 0")
        elif max(values) > limit.most:
            faults.append(f"{name} = {reprlib.repr(value)} is above the limit of {limit.most:,}")
    return faults


def divides(config: object, width: str, heads: str, multiple: int = 1) -> list[str]:
    """Return a fault unless `width` splits into `heads` heads of a multiple of `multiple`."""
    w, h = getattr(config, width), getattr(config, heads)
    if w <= 0 or (h > 0 and w % (h * multiple) == 0):  # `within` reports a width below 1
        return []
    each = f" of a multiple of {multiple} features" if multiple > 1 else ""
    shown = f"{width} = {reprlib.repr(w)} does not split into {heads} = {reprlib.repr(h)}"
    return [f"{shown} heads{each}"]


def _is_note(name: str, notes: Collection[str]) -> bool:
    return any(name == n or (n.endswith("*") and name.startswith(n[:-1])) for n in notes)


def _as(hint: Any, value: Any) -> Any:
    """Convert `value` to the type of a field: int to float and list to tuple, nothing else."""
    if isinstance(hint, UnionType):
        if value is None and NoneType in get_args(hint):
            return None
        return _as(next(a for a in get_args(hint) if a is not NoneType), value)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError
        inner = get_args(hint)
        if inner[-1] is not Ellipsis and len(inner) != len(value):
            raise TypeError
        return tuple(_as(inner[0], v) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > 1 << 53:
            raise TypeError
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise TypeError
    return value


def _words(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint)
