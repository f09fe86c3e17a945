"""Ranges of dynamic dimensions, and the input shapes of an optimization profile."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from covis.engines.bundle.manifest import Stage
from covis.engines.errors import user_error
from covis.engines.limits import VIEWS
from covis.engines.tensorrt.plans.record import Range

Symbol = Literal["M", "N", "K", "R"]
Shape = tuple[int, ...]

_NAME: Final = re.compile(r"[^,\s]+")  # names of tensors may contain colons


@dataclass(frozen=True)
class InputShapes:
    """Shape of every graph input in an optimization profile.

    Attributes:
        min: Smallest shape of every input, by name.
        opt: Shape of every input for which kernels are tuned.
        max: Largest shape of every input.
        dynamic: Names of the inputs with dynamic dimensions.
    """

    min: dict[str, Shape]
    opt: dict[str, Shape]
    max: dict[str, Shape]
    dynamic: frozenset[str]


def parse_range(text: str, option: str) -> Range:
    """Parse a range "MIN:OPT:MAX", "MIN:MAX" (tuned for the maximum) or one number.

    Raises:
        CovisError: the text is no range, or its numbers do not rise.
    """
    words = text.split(":")
    if not all(word.isascii() and word.isdigit() and len(word) < 9 for word in words):
        raise _bad_range(text, option)
    numbers = [int(word) for word in words]
    if len(numbers) == 1:
        numbers *= 3
    elif len(numbers) == 2:
        numbers = [numbers[0], numbers[1], numbers[1]]
    rising = len(numbers) == 3 and 1 <= numbers[0] <= numbers[1] <= numbers[2] <= VIEWS.most
    if not rising:
        raise _bad_range(text, option)
    return Range(min=numbers[0], opt=numbers[1], max=numbers[2])


def stage_profile(stage: Stage, ranges: Mapping[Symbol, Range]) -> dict[Symbol, Range]:
    """Select the ranges of the symbols in the shapes of a stage's inputs."""
    used = {size for tensor in stage.inputs for size in tensor.shape if isinstance(size, str)}
    return {symbol: value for symbol, value in ranges.items() if symbol in used}


def stage_shapes(stage: Stage, profile: Mapping[Symbol, Range]) -> InputShapes:
    """Compute the shape of every input of a stage for a profile."""

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
    """Parse shapes in trtexec's syntax: "images:1x3x392x518,tau:scalar"; "tau:" is a scalar too.

    Raises:
        CovisError: the syntax is wrong, or an input is named twice.
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
    """Format shapes in trtexec's syntax; all versions since 10.0 accept `name:scalar`."""
    return ",".join(
        f"{name}:{'x'.join(map(str, shape)) or 'scalar'}" for name, shape in shapes.items()
    )


def _bad_range(text: str, option: str) -> Exception:
    return user_error(
        f"{text!r} is no range",
        where=option,
        hint="write MIN:OPT:MAX with rising numbers of at least 1, e.g. 1:100:500",
    )
