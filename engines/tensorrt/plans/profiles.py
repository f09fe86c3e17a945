"""Ranges of the dynamic dimensions, and the input shapes of an optimization profile they make."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from covis.engines.bundle.manifest import Stage
from covis.engines.errors import user_error
from covis.engines.tensorrt.plans.record import Range

Symbol = Literal["M", "N", "K"]
Shape = tuple[int, ...]

# TensorRT refuses tensors of 2^31 elements or more; nobody has that many views.
_MOST: Final = 1_000_000
_NAME: Final = re.compile(r"[^,\s]+")  # names of tensors may hold colons


@dataclass(frozen=True)
class InputShapes:
    """Shapes of every input at the ends of a profile and at the point it is tuned for.

    `dynamic` names the inputs whose shape the graph leaves open.
    """

    min: dict[str, Shape]
    opt: dict[str, Shape]
    max: dict[str, Shape]
    dynamic: frozenset[str]


def parse_range(text: str, option: str) -> Range:
    """A range from "MIN:OPT:MAX", "MIN:MAX" (tuned for the maximum) or one number.

    Raises:
        CovisError: anything else, or numbers that do not rise.
    """
    words = text.split(":")
    if not all(word.isascii() and word.isdigit() and len(word) < 9 for word in words):
        raise _bad_range(text, option)
    numbers = [int(word) for word in words]
    if len(numbers) == 1:
        numbers *= 3
    elif len(numbers) == 2:
        numbers = [numbers[0], numbers[1], numbers[1]]
    rising = len(numbers) == 3 and 1 <= numbers[0] <= numbers[1] <= numbers[2] <= _MOST
    if not rising:
        raise _bad_range(text, option)
    return Range(min=numbers[0], opt=numbers[1], max=numbers[2])


def stage_profile(stage: Stage, ranges: Mapping[Symbol, Range]) -> dict[Symbol, Range]:
    """The ranges of the symbols that a stage's inputs have."""
    used = {size for tensor in stage.inputs for size in tensor.shape if isinstance(size, str)}
    return {symbol: value for symbol, value in ranges.items() if symbol in used}


def stage_shapes(stage: Stage, profile: Mapping[Symbol, Range]) -> InputShapes:
    """The shapes of all inputs of a stage for a profile."""

    def shapes(end: Literal["min", "opt", "max"]) -> dict[str, Shape]:
        return {
            tensor.name: tuple(
                getattr(profile[size], end) if isinstance(size, str) else size
                for size in tensor.shape
            )
            for tensor in stage.inputs
        }

    dynamic = (t.name for t in stage.inputs if any(isinstance(size, str) for size in t.shape))
    return InputShapes(shapes("min"), shapes("opt"), shapes("max"), frozenset(dynamic))


def parse_shapes(text: str, option: str) -> dict[str, Shape]:
    """Shapes in trtexec's words: "images:1x3x392x518,tau:scalar"; "tau:" is a scalar too.

    Raises:
        CovisError: another spelling, or an input named twice.
    """
    shapes: dict[str, Shape] = {}
    for entry in text.split(","):
        name, colon, words = entry.strip().rpartition(":")
        name = name.strip("'")
        sizes = [] if words in ("", "scalar") else words.split("x")
        plain = all(size.isascii() and size.isdigit() and len(size) < 10 for size in sizes)
        if not colon or not _NAME.fullmatch(name) or not plain or name in shapes:
            raise user_error(
                f"{entry!r} is no shape",
                where=option,
                hint='write e.g. "images:1x3x392x518,tau:scalar", each input once',
            )
        shapes[name] = tuple(int(size) for size in sizes)
    return shapes


def format_shapes(shapes: Mapping[str, Shape]) -> str:
    """The same words back; scalars as `name:scalar`, which every trtexec since 10.0 takes."""
    return ",".join(
        f"{name}:{'x'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items()
    )


def _bad_range(text: str, option: str) -> Exception:
    return user_error(
        f"{text!r} is no range",
        where=option,
        hint="write MIN:OPT:MAX with rising numbers of at least 1, e.g. 1:100:500",
    )
