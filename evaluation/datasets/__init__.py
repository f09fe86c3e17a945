"""Readers of datasets in their published layouts, one file each, opened by name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Literal, cast, get_args

from covis.engines.errors import user_error
from covis.evaluation.datasets.truth import Dataset

Name = Literal[
    "synthetic",
    "co3d",
    "realestate10k",
    "tanks_temples",
    "eth3d",
    "7scenes",
    "nrgbd",
    "dtu",
    "scannet",
    "stereodemo",
    "pose2sim",
]
NAMES: tuple[Name, ...] = get_args(Name)

FORMER_NAMES: dict[str, Name] = {"made": "synthetic"}
"""Names of the previous version; accepted for one version."""

_HOME: dict[str, str] = {
    "synthetic": "synthetic:SyntheticScenes",
    "co3d": "co3d:Co3d",
    "realestate10k": "realestate10k:RealEstate10K",
    "tanks_temples": "tanks_temples:TanksTemples",
    "eth3d": "eth3d:Eth3d",
    "7scenes": "seven_scenes:SevenScenes",
    "nrgbd": "nrgbd:Nrgbd",
    "dtu": "dtu:Dtu",
    "scannet": "scannet:ScanNet",
    "stereodemo": "stereodemo:Stereodemo",
    "pose2sim": "pose2sim:Pose2Sim",
}


def open_dataset(name: str, paths: Sequence[str], *, size: tuple[int, int] = (168, 168)) -> Dataset:
    """Open the reader of a dataset.

    Args:
        name: One of `NAMES` or `FORMER_NAMES`.
        paths: Folders of the dataset; several are one dataset in several places. For `synthetic`:
            family/path, family/path/seeds or family/path/seeds/views.
        size: (H, W) at which synthetic scenes are rendered; the other datasets have photos.

    Raises:
        CovisError: No such dataset, or no such folder.
    """
    name = FORMER_NAMES.get(name, name)
    if name not in _HOME:
        raise user_error("no such dataset", where=name, hint=f"use one of {', '.join(NAMES)}")
    if not paths:
        raise user_error("no path given", where=name, hint="say where the dataset is")
    module, _, kind = _HOME[name].partition(":")
    reader = getattr(importlib.import_module(f"covis.evaluation.datasets.{module}"), kind)
    return cast(
        Dataset, reader(tuple(paths), size) if name == "synthetic" else reader(tuple(paths))
    )
