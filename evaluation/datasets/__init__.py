"""Readers of datasets in their published layouts, one file each, opened by name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Literal, cast, get_args

from covis.engines.errors import user_error
from covis.evaluation.datasets.truth import Dataset

Name = Literal[
    "made",
    "co3d",
    "realestate10k",
    "tanks_temples",
    "eth3d",
    "7scenes",
    "nrgbd",
    "dtu",
    "scannet",
]
NAMES: tuple[Name, ...] = get_args(Name)

_HOME: dict[str, str] = {
    "made": "made:MadeScenes",
    "co3d": "co3d:Co3d",
    "realestate10k": "realestate10k:RealEstate10K",
    "tanks_temples": "tanks_temples:TanksTemples",
    "eth3d": "eth3d:Eth3d",
    "7scenes": "seven_scenes:SevenScenes",
    "nrgbd": "nrgbd:Nrgbd",
    "dtu": "dtu:Dtu",
    "scannet": "scannet:ScanNet",
}


def open_dataset(name: str, paths: Sequence[str], *, size: tuple[int, int] = (168, 168)) -> Dataset:
    """The reader of a dataset.

    Args:
        name: one of `NAMES`.
        paths: where it is; several are one dataset in several places. For `made`: family/path,
            family/path/seeds or family/path/seeds/views.
        size: (H, W) at which made scenes are rendered; the others have photos.

    Raises:
        CovisError: no such dataset, or no such folder.
    """
    if name not in _HOME:
        raise user_error("no such dataset", where=name, hint=f"use one of {', '.join(NAMES)}")
    if not paths:
        raise user_error("no path given", where=name, hint="say where the dataset is")
    module, _, kind = _HOME[name].partition(":")
    reader = getattr(importlib.import_module(f"covis.evaluation.datasets.{module}"), kind)
    return cast(Dataset, reader(tuple(paths), size) if name == "made" else reader(tuple(paths)))
