"""Options that several commands share: the library's own option classes, as tyro reads them.

The classes are defined once, in `covis.engines.options`, which does not import tyro because the
library must not require it. A subclass of each adds what only a command line shows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import copy
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from covis.engines.options import (
    CPU_CHUNK,
    GPU_CHUNK,
    BackendOptions,
    RunOptions,
    Sparsity,
    SparsityChanges,
)
from covis.runtime.photos.options import PhotoOptions
from covis.runtime.scene.options import SceneOptions
from covis.runtime.scene.writers.options import OutputOptions


def arguments(
    name: str,
    base: type[Any],
    *,
    documentation: type[Any] | None = None,
    defaults: Mapping[str, str] | None = None,
    hidden: Collection[str] = (),
    nested: Mapping[str, type[Any]] | None = None,
) -> type[Any]:
    """Return a subclass of an options class, with the annotations that tyro reads.

    Args:
        name: Name of the subclass in this module; workers find it there when they unpickle it.
        base: Options class of the library, which gives types, default values and checks.
        documentation: Class whose docstring explains the options; `base` where None.
        defaults: Text to show as the default value of an option, by field.
        hidden: Fields that the command line does not offer, because the command ignores them.
        nested: Subclass to parse instead of the class of a field, by field.
    """
    types, shown, parsed = get_type_hints(base), defaults or {}, nested or {}
    changed: list[tuple[str, Any, Any]] = []
    for entry in fields(base):
        marks: list[Any] = []
        if entry.name in parsed:
            marks = [tyro.conf.arg(constructor=parsed[entry.name])]
        elif entry.name in hidden:
            marks = [tyro.conf.Fixed, tyro.conf.Suppress]
        elif entry.name in shown:
            marks = [default(shown[entry.name])]
        if marks:
            value = copy(entry)  # a field object belongs to one class
            changed.append((entry.name, Annotated[types[entry.name], *marks], value))
    names = {"__doc__": (documentation or base).__doc__, "__module__": __name__}
    return make_dataclass(name, changed, bases=(base,), namespace=names, frozen=True)


def default(text: str) -> object:
    """Return the annotation of an option whose None means a value that help shows as this text."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


def _of_the_bundle(name: str) -> str:
    """Return the text that stands for a default which only the bundle's manifest decides."""
    value = getattr(Sparsity(), name)
    usual = "" if value in (None, "") else f"; {value} in a default export"
    return f"the bundle's{usual}"


_Backend = arguments(
    "_Backend",
    BackendOptions,
    defaults={
        "plans": "the bundle's own folder `plans`",
        "plugin": "the one that covis installed",
        "trust_plan": "none",
    },
)
_CHUNK = {"chunk": f"{CPU_CHUNK} on a CPU, {GPU_CHUNK} on a GPU"}
_Run = arguments("_Run", RunOptions, defaults=_CHUNK, nested={"backend": _Backend})
_RunWithoutProbes = arguments(
    "_RunWithoutProbes",
    RunOptions,
    defaults=_CHUNK,
    hidden=("probes",),
    nested={"backend": _Backend},
)
_EstimateBackend = arguments(
    "_EstimateBackend", BackendOptions, hidden=("plans", "plugin", "trust_plan", "cuda_graphs")
)
_Estimate = arguments(
    "_Estimate",
    RunOptions,
    defaults=_CHUNK,
    hidden=("threads", "kernel"),
    nested={"backend": _EstimateBackend},
)
_PHOTO = {
    "masks": "none",
    "fps": "2, if no other option chooses frames",
    "max_views": "all",
}
_Photo = arguments("_Photo", PhotoOptions, defaults=_PHOTO)
_PhotoWithoutMasks = arguments(
    "_PhotoWithoutMasks", PhotoOptions, defaults=_PHOTO, hidden=("masks",)
)
_Scene = arguments(
    "_Scene",
    SceneOptions,
    defaults={
        "mask_edges": "as the model's own example: True for pi3 and mapanything, False for vggt",
        "min_conf": "as the model's own example: 0.1 for pi3, none for the others",
    },
)
_Sparsity = arguments(
    "_Sparsity",
    SparsityChanges,
    documentation=Sparsity,
    defaults={entry.name: _of_the_bundle(entry.name) for entry in fields(Sparsity)},
)

BundlePath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="BUNDLE")]
"""Folder of a bundle."""
Photos = Annotated[
    tyro.conf.Positional[tuple[Path, ...]],
    tyro.conf.arg(metavar="PHOTOS ...", help_behavior_hint="(required)"),
]
"""Folder of photos, or photo files."""
PhotoArguments = Annotated[
    PhotoOptions, tyro.conf.arg(constructor=_Photo), tyro.conf.OmitArgPrefixes
]
"""Options that choose photos, video frames and masks."""
ChoiceArguments = Annotated[
    PhotoOptions, tyro.conf.arg(constructor=_PhotoWithoutMasks), tyro.conf.OmitArgPrefixes
]
"""Options that choose photos and video frames, for commands whose result has no masks."""
RunArguments = Annotated[RunOptions, tyro.conf.arg(constructor=_Run), tyro.conf.OmitArgPrefixes]
"""All options of a run."""
MeasureArguments = Annotated[
    RunOptions, tyro.conf.arg(constructor=_RunWithoutProbes), tyro.conf.OmitArgPrefixes
]
"""Options of a run for commands that do not report the attention mass, so without `--probes`."""
EstimateArguments = Annotated[
    RunOptions, tyro.conf.arg(constructor=_Estimate), tyro.conf.OmitArgPrefixes
]
"""Options of a run that change its memory."""
SparsityArguments = Annotated[
    SparsityChanges, tyro.conf.arg(constructor=_Sparsity), tyro.conf.OmitArgPrefixes
]
"""Options of the selector; those that are not given keep the values of the bundle."""
SceneArguments = Annotated[
    SceneOptions, tyro.conf.arg(constructor=_Scene), tyro.conf.OmitArgPrefixes
]
"""Options of cameras, world and masks."""
OutputArguments = Annotated[OutputOptions, tyro.conf.OmitArgPrefixes]
"""All options of a scene folder."""
