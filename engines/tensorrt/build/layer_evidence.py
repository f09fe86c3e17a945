"""Files of an engine's layer information, which are written even if the proof rejects the engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from covis.engines.system.atomic import atomic_file
from covis.engines.errors import CovisError


def stage_layers_file(path: Path, stage: str, stages: int) -> Path:
    """Return the file for one stage's layer information: `path` itself if only one is built.

    Otherwise each stage has its own, with its name before the suffix: `layers.encoder.json`.
    """
    return path if stages == 1 else path.with_name(f"{path.stem}.{stage}{path.suffix}")


def refused_layers_file(plan: Path) -> Path:
    """Return the file beside a plan's place for the layers of an engine that was rejected."""
    return plan.with_name(f"{plan.name}.refused.layers")


@contextmanager
def preserve_layers(layers: str, requested: Path | None, refused: Path) -> Iterator[None]:
    """Save an engine's layer information while the block proves the engine.

    Args:
        layers: JSON of the engine inspector, valid or not.
        requested: File that the user named, written in any case; None if there is none.
        refused: File written if the block rejects the engine and none was requested. Once an
            engine passes, the file of an earlier rejection is removed.

    Raises:
        CovisError: the error of the block, with the file in its hint.
    """
    if requested is not None:
        _write(requested, layers)
    try:
        yield
    except Exception as error:  # layers on which the proof itself fails are needed most
        if requested is None:
            _write(refused, layers)
        if not isinstance(error, CovisError):
            raise
        place = f"its plan was not kept, its layers are in {requested or refused}"
        hint = f"{error.hint}; {place}" if error.hint else place
        raise error.replaced(hint=hint) from error
    refused.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as stream:
        stream.write(text.encode())
