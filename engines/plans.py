"""Built engines on disk: what is known of each, which one fits a run, and when one is refused.

A plan is executable: TensorRT does not check it, so nothing is deserialised here before its size
and sha256 are those of its record, and the digest is one that this user built or trusts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from covis.engines.bundle import PLANS, Bundle
from covis.engines.errors import CovisError, environment_error, user_error
from covis.engines.gpu import Gpu
from covis.engines.manifest import Count, Digest, FileName, Identifier, Stage
from covis.engines.trust import own_plans

RECORD_FORMAT: Final = 1
_MAX_RECORD = 1 << 20
_BUILD = "build it here with `covis build`"


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


def read_plan(record: PlanRecord, folder: Path, trusted: Collection[str] = ()) -> memoryview:
    """The plan's bytes, once it is certain that they are what was built and that it is trusted.

    Args:
        record: from `find_plan` or `records`.
        folder: where record and plan lie.
        trusted: sha256 digests that the user trusts, besides the plans built by this user.

    Returns:
        A read-only view; the bytes were hashed after they were read, so no later change of the
        file can slip past the check.

    Raises:
        CovisError: missing, of another size or digest, or a plan that this user neither built
            nor trusts (exit code 2).
    """
    path = folder / record.file
    if record.sha256 not in trusted and record.sha256 not in own_plans():
        raise user_error(
            "was not built by this user, and a plan is executable code",
            where=path,
            hint=f"{_BUILD}, or give --trust-plan {record.sha256}",
        )
    try:
        if path.is_symlink() or not path.is_file():
            raise user_error("is missing or no plain file", where=path, hint=_BUILD)
        data = path.read_bytes()
    except OSError as error:
        raise environment_error(
            f"cannot be read ({error.strerror or error})", where=path, hint="check rights and disk"
        ) from error
    if len(data) != record.size:
        raise user_error(
            f"has {len(data):,} bytes where its record says {record.size:,}",
            where=path,
            hint=_BUILD,
        )
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise user_error("is not what was built (sha256 differs)", where=path, hint=_BUILD)
    return memoryview(data)


def read_record(path: Path) -> PlanRecord:
    """A record file.

    Raises:
        CovisError: not a record of this format (exit code 2).
    """
    try:
        if path.stat().st_size > _MAX_RECORD:
            raise user_error("is too large for a plan's record", where=path, hint=_BUILD)
        record = PlanRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the top"
        raise user_error(
            f"is no valid record of a plan at {place}: {first['msg']}", where=path, hint=_BUILD
        ) from error
    except OSError as error:
        raise environment_error(
            f"cannot be read ({error.strerror or error})", where=path, hint="check rights and disk"
        ) from error
    if "/" in record.file:
        raise user_error("names a plan in another folder", where=path, hint=_BUILD)
    return record


def records(folder: Path) -> Iterator[PlanRecord]:
    """Every plan recorded in a folder, in order of name."""
    if folder.is_dir():
        for path in sorted(folder.glob("*.plan.json")):
            yield read_record(path)


def mismatch(
    record: PlanRecord, bundle: Bundle, gpu: Gpu, tensorrt: str, plugin: str | None
) -> str | None:
    """Why a plan cannot be used here with this bundle, in words; None where nothing is wrong."""
    manifest = bundle.manifest
    digests = {file.path: file.sha256 for file in manifest.files}
    if record.graph != digests[manifest.stage(record.stage).graph]:
        return "it was built from another graph"
    if record.weights != digests[manifest.weights.file]:
        return "it was built from other weights"
    if record.tensorrt != tensorrt:
        return f"it was built by TensorRT {record.tensorrt}, here is {tensorrt}"
    if record.plugin is not None and record.plugin != plugin:
        return "it was built with another version of the plugin library"
    here, there = gpu.compute_capability, record.compute_capability
    portable = {"none": False, "ampere+": here >= (8, 0), "sameComputeCapability": here == there}
    if not portable[record.options.hardware_compatibility] and record.gpu != gpu.name:
        return f"it was built for {record.gpu}, here is {gpu.name}"
    if (record.cuda, record.driver_branch) != (gpu.cuda, gpu.driver_branch):
        return (
            f"it was built with driver {record.driver_branch} (CUDA {record.cuda}), here is "
            f"{gpu.driver_branch} (CUDA {gpu.cuda})"
        )
    return None


def find_plan(
    bundle: Bundle,
    stage: Stage,
    views: int,
    gpu: Gpu,
    *,
    tensorrt: str,
    plugin: str | None,
    folder: Path | None = None,
    trusted: Collection[str] = (),
) -> PlanRecord:
    """The plan of a stage whose profile is nearest to `views`.

    Among plans that hold `views`, the one tuned for the nearest number; for a `frames` stage, where
    none holds it, the one with the nearest range (run chunks of `record.views.clamp(views)`).

    Args:
        bundle: opened.
        stage: of the bundle.
        views: views M of a sequence stage, or frames N of a chunk.
        gpu: the one to run on.
        tensorrt: full version of the module in use.
        plugin: sha256 of the plugin library in use, None without one.
        folder: where the plans lie; the bundle's own `plans/` by default.
        trusted: digests of plans that may be used although they were built for another driver,
            GPU or plugin; one of another graph, weights or TensorRT never can.

    Raises:
        CovisError: none was built, all are refused (the reason of the nearest is told), or none
            holds so many views (exit code 2).
    """
    place = folder or bundle.path / PLANS
    mine = [record for record in records(place) if record.stage == stage.name]
    refused: list[tuple[PlanRecord, str]] = []
    fitting: list[PlanRecord] = []
    for record in mine:
        reason = mismatch(record, bundle, gpu, tensorrt, plugin)
        if reason is None or (record.sha256 in trusted and not reason.startswith(_NEVER)):
            fitting.append(record)
        else:
            refused.append((record, reason))
    if not fitting:
        raise _nothing_fits(bundle, stage, views, place, refused)
    best = min(fitting, key=lambda record: _distance(record.views, views))
    if stage.scope == "sequence" and views not in best.views:
        raise user_error(
            f"{views} views are outside the profile of every plan of this stage (nearest: "
            f"{best.views})",
            where=f"stage {stage.name}",
            hint=f"covis build {bundle.path} --stages {stage.name} "
            f"--views {min(views, best.views.min)}:{views}:{max(views, best.views.max)}",
        )
    return best


_NEVER = ("it was built from", "it was built by TensorRT")


def _distance(profile: Range, views: int) -> tuple[bool, int]:
    if views in profile:
        return False, abs(profile.opt - views)
    return True, abs(profile.clamp(views) - views)


def _nothing_fits(
    bundle: Bundle,
    stage: Stage,
    views: int,
    place: Path,
    refused: list[tuple[PlanRecord, str]],
) -> CovisError:
    cure = f"covis build {bundle.path} --stages {stage.name}"
    if not refused:
        return user_error("has no plan", where=f"stage {stage.name}", hint=cure)
    record, reason = min(refused, key=lambda pair: _distance(pair[0].views, views))
    return user_error(f"is refused: {reason}", where=place / record.file, hint=cure)
