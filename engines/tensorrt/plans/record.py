"""."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from covis.engines.bundle.manifest import Count, Digest, FileName, Identifier
from covis.engines.errors import environment_error, user_error

RECORD_FORMAT: Final = 1


_MAX_RECORD = 1 << 20


BUILD_HINT = "build it here with `covis build`"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Range(_Strict):
    """The values a dynamic dimension may take in a profile, and the one it is tuned for."""

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
        """The size inside the range that is nearest to `size`."""
        return min(max(size, self.min), self.max)

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


class EngineOptions(_Strict):
    """The build options that change what an engine computes, or how."""

    builder_optimization_level: int = 3
    workspace: int | None = None  # bytes; None leaves TensorRT's own limit
    tactic_shared_memory: int | None = None  # bytes
    hardware_compatibility: Literal["none", "ampere+", "sameComputeCapability"] = "none"
    profiling_verbosity: Literal["layer_names_only", "detailed", "none"] = "detailed"
    refit: bool = False
    strip_weights: bool = False
    tf32: bool = False


class PlanInputs(_Strict):
    """Everything that goes into a plan; two plans with equal inputs are the same plan.

    Attributes:
        stage: of the bundle.
        precision: the export's, e.g. float32, float16, fp8.
        graph: sha256 of the ONNX file it is built from.
        parser_copy: version of the rules by which TensorRT's parser gets a copy of that file.
        weights: sha256 of the weights file.
        plugin: sha256 of the plugin library; None where the graph has no node of ours.
        tensorrt: full version, e.g. "10.15.1.29".
        cuda: the CUDA version of the driver, e.g. "13.0".
        driver_branch: e.g. "580".
        gpu: its name.
        compute_capability: e.g. (9, 0).
        profile: range of each symbol (M, N, K).
        options: see `EngineOptions`.
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
    profile: dict[Literal["M", "N", "K"], Range]
    options: EngineOptions

    def key(self) -> str:
        """sha256 of all that goes into the plan, in canonical JSON: its name in the cache."""
        inputs = self.model_dump(mode="json", include=set(PlanInputs.model_fields))
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


class PlanRecord(PlanInputs):
    """A built plan: what it was made from, and the file itself.

    Attributes:
        file: name of the plan beside the record.
        size: bytes of that file.
        sha256: of that file.
        layers: name and sha256 of the engine inspector's layer information beside it, if any.
        activation_memory: bytes of device memory a context needs at the profile's maximum.
        build_seconds: how long TensorRT took.
    """

    file: FileName
    size: Annotated[int, Field(ge=1)]
    sha256: Digest
    layers: tuple[FileName, Digest] | None = None
    activation_memory: Annotated[int, Field(ge=0)] = 0
    build_seconds: Annotated[float, Field(ge=0)] = 0.0

    @property
    def views(self) -> Range:
        """The range of the stage's leading symbol: views M, or frames N of a chunk."""
        return self.profile["M" if "M" in self.profile else "N"]


def read_record(path: Path) -> PlanRecord:
    """A record file.

    Raises:
        CovisError: not a record of this format (exit code 2).
    """
    try:
        if path.stat().st_size > _MAX_RECORD:
            raise user_error("is too large for a plan's record", where=path, hint=BUILD_HINT)
        record = PlanRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the top"
        raise user_error(
            f"is no valid record of a plan at {place}: {first['msg']}", where=path, hint=BUILD_HINT
        ) from error
    except OSError as error:
        raise environment_error(
            f"cannot be read ({error.strerror or error})", where=path, hint="check rights and disk"
        ) from error
    if "/" in record.file:
        raise user_error("names a plan in another folder", where=path, hint=BUILD_HINT)
    return record


def records(folder: Path) -> Iterator[PlanRecord]:
    """Every plan recorded in a folder, in order of name."""
    if folder.is_dir():
        for path in sorted(folder.glob("*.plan.json")):
            yield read_record(path)
