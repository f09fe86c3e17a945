"""Where an engine's layer information goes: to the user's file, and never lost on a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from covis.engines.system.atomic import atomic_file
from covis.engines.errors import CovisError


def stage_file(path: Path, stage: str, stages: int) -> Path:
    """The file of one stage's layer information: `path` itself where only one stage is built.

    Of several each has its own, with the stage's name before the suffix: `layers.encoder.json`.
    """
    return path if stages == 1 else path.with_name(f"{path.stem}.{stage}{path.suffix}")


def refused_file(plan: Path) -> Path:
    """The file beside a plan's place that says what a refused engine was made of."""
    return plan.with_name(f"{plan.name}.refused.layers")


@contextmanager
def kept_evidence(layers: str, asked: Path | None, refused: Path) -> Iterator[None]:
    """Keep an engine's layer information while the block proves the engine.

    Args:
        layers: the inspector's JSON, whatever it holds.
        asked: the user's file, written in any case.
        refused: where it is kept if the block refuses the engine and no file was asked for; the
            file of an earlier refusal goes once the engine passes.

    Raises:
        CovisError: the block's own, with the file named.
    """
    if asked is not None:
        _write(asked, layers)
    try:
        yield
    except Exception as error:  # information that trips the proof's own code is evidence, too
        if asked is None:
            _write(refused, layers)
        if not isinstance(error, CovisError):
            raise
        told = f"its plan was not kept, its layers are in {asked or refused}"
        hint = f"{error.hint}; {told}" if error.hint else told
        raise error.replaced(hint=hint) from error
    refused.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as stream:
        stream.write(text.encode())
