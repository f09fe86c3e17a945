"""Records of built plans: the inputs that determine a plan, and the file that contains it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError, model_validator

from covis.engines.bundle.manifest import Count, Digest, FileName, Identifier, StrictModel
from covis.engines.errors import user_error
from covis.engines.limits import PLAN_RECORD, PLANS
from covis.engines.system.regular import read_regular

RECORD_FORMAT: Final = 1
BUILD_HINT: Final = "build it here with `covis build`"


class Range(StrictModel):
    """Smallest, optimal and largest size of a dynamic dimension in an optimization profile."""

    min: Annotated[int, Field(ge=1)]
    opt: Annotated[int, Field(ge=1)]
    max: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"{self.min}:{self.opt}:{self.max} does not rise")
        return self

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max

    def clamp(self, size: int) -> int:
        """Return the size inside the range that is nearest to `size`."""
        return min(max(size, self.min), self.max)

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


class EngineOptions(StrictModel):
    """The build options that change an engine; they are part of a plan's key.

    The names are those of trtexec's options, see `BuildOptions`.
    """

    builder_optimization_level: int = 3
    workspace: int | None = None  # bytes; None keeps TensorRT's default limit
    tactic_shared_memory: int | None = None  # bytes
    hardware_compatibility: Literal["none", "ampere+", "sameComputeCapability"] = "none"
    profiling_verbosity: Literal["layer_names_only", "detailed", "none"] = "detailed"
    refit: bool = False
    strip_weights: bool = False
    tf32: bool = False


class PlanInputs(StrictModel):
    """Everything that determines a plan: equal inputs give the same plan.

    Attributes:
        format: Version of this record's format.
        stage: Name of the stage.
        precision: Precision of the export, e.g. fp32, fp16, fp8.
        graph: sha256 of the ONNX file.
        parser_copy: Version of the rewrites of that file for TensorRT's parser.
        weights: sha256 of the weights file.
        plugin: sha256 of the plugin library; None if the graph has no node of the three ops.
        tensorrt: Full version of TensorRT, e.g. "10.15.1.29".
        cuda: CUDA version of the driver, e.g. "13.0".
        driver_branch: Release branch of the driver, e.g. "580".
        gpu: Name of the GPU.
        compute_capability: Compute capability of the GPU, e.g. (9, 0).
        profile: Range of each symbol (M, N, K).
        options: Options that change the engine.
    """

    format: Literal[1] = RECORD_FORMAT
    stage: Identifier
    precision: Annotated[str, Field(max_length=32)]
    graph: Digest
    parser_copy: Count
    weights: Digest
    plugin: Digest | None
    tensorrt: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)+", max_length=64)]
    cuda: Annotated[str, Field(max_length=16)]
    driver_branch: Annotated[str, Field(max_length=16)]
    gpu: Annotated[str, Field(max_length=128)]
    compute_capability: tuple[Count, Count]
    profile: dict[Literal["M", "N", "K", "R"], Range]
    options: EngineOptions

    def key(self) -> str:
        """Return the sha256 of all inputs in canonical JSON: the plan's name in the cache."""
        inputs = self.model_dump(mode="json", include=set(PlanInputs.model_fields))
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


class PlanRecord(PlanInputs):
    """A built plan: its inputs, and the file that contains it.

    Attributes:
        file: Name of the plan, in the same folder as the record.
        size: Size of that file in bytes.
        sha256: Digest of that file.
        layers: Name and sha256 of the file with the engine inspector's layer information; None if
            there is none.
        activation_memory: Device memory in bytes that a context needs at the profile's maximum.
        build_seconds: Build time in seconds.
    """

    file: FileName
    size: Annotated[int, Field(ge=1)]
    sha256: Digest
    layers: tuple[FileName, Digest] | None = None
    activation_memory: Annotated[int, Field(ge=0)] = 0
    build_seconds: Annotated[float, Field(ge=0)] = 0.0

    @property
    def views(self) -> Range:
        """Range of the stage's leading symbol: views M, or frames N of a chunk."""
        return self.profile["M" if "M" in self.profile else "N"]


def read_record(path: Path) -> PlanRecord:
    """Read a record file.

    Raises:
        CovisError: the file is no regular file, or not a record of this format (exit code 2).
    """
    data = read_regular(path, PLAN_RECORD, hint=BUILD_HINT)
    try:
        record = PlanRecord.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the top"
        raise user_error(
            f"is no valid record of a plan at {place}: {first['msg']}", where=path, hint=BUILD_HINT
        ) from error
    if "/" in record.file:
        raise user_error("names a plan in another folder", where=path, hint=BUILD_HINT)
    return record


def records(folder: Path) -> Iterator[PlanRecord]:
    """Read every record in a folder, in the order of their names.

    Raises:
        CovisError: one of them is not a record, or there are too many (exit code 2).
    """
    paths = sorted(folder.glob("*.plan.json")) if folder.is_dir() else []
    if len(paths) > PLANS.most:
        raise user_error(
            f"has more than {PLANS}", where=folder, hint="remove those that are not needed"
        )
    for path in paths:
        yield read_record(path)
