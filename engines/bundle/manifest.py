"""What a bundle says of itself: `manifest.json`, strictly typed."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.options import Sparsity

FORMAT: Final = 1  # of the manifest; a reader refuses formats it does not know
OP_VERSION: Final = 1  # of the ONNX domain `covis`
OPSET: Final = 20

Scope = Literal["frames", "sequence"]
WeightsDtype = Literal["float32", "float16", "bfloat16", "float8_e4m3fn"]
Dtype = Literal["float32", "float16", "bfloat16", "int8", "int32", "int64", "bool"]


def _inside(name: str) -> str:
    """A plain relative path that stays inside the bundle."""
    path = PurePosixPath(name)
    if not name or "\\" in name or "\0" in name or path.is_absolute() or str(path) != name:
        raise ValueError(f"{name!r} is no plain relative path")
    if name == "." or ".." in path.parts:
        raise ValueError(f"{name!r} leaves the bundle")
    return name


FileName = Annotated[str, AfterValidator(_inside)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


class StrictModel(BaseModel):
    """Base of records read from files: no conversion of types, no unknown field, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Tensor(StrictModel):
    """A named tensor between stages.

    Symbols in `shape`: `M` all views, `N` the frames of a chunk, `K` sampled queries.
    """

    name: Identifier
    dtype: Dtype
    shape: tuple[Annotated[int, Field(ge=0)] | Literal["M", "N", "K"], ...]


def _plain(tensor: Tensor) -> tuple[str, tuple[int | str, ...]]:
    """Type and shape, with a chunk's frames counted as the views they are."""
    return tensor.dtype, tuple("M" if size == "N" else size for size in tensor.shape)


class Stage(StrictModel):
    """One graph: read `inputs`, write `outputs`; `frames` stages run in chunks of frames.

    `longest` is the largest M (of a `frames` stage: N) at which every tensor of the graph has fewer
    than 2^31 elements, which is TensorRT's limit; None in bundles that do not say.
    """

    name: Identifier
    scope: Scope
    graph: FileName
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    longest: Annotated[int, Field(ge=0)] | None = None

    def writes(self, name: str) -> bool:
        """Return whether the tensor of this name is an output of the stage."""
        return any(tensor.name == name for tensor in self.outputs)


class File(StrictModel):
    """Size in bytes and digest of a file of the bundle."""

    path: FileName
    size: Annotated[int, Field(ge=0)]
    sha256: Digest


class Check(StrictModel):
    """The verdict on one output of one exported graph, against torch."""

    stage: Identifier
    views: int
    output: Identifier
    max_abs_diff: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference stays within the tolerance."""
        return self.max_abs_diff <= self.tolerance


class PassRecord(StrictModel):
    """A rewrite that the graphs went through at export."""

    name: Identifier
    version: Annotated[int, Field(ge=1)]


class Drift(StrictModel):
    """How far an output of a narrow bundle is from float32, end to end, on the check's images.

    Attributes:
        stage: that writes it.
        views: of the check.
        output: its name.
        max_abs: largest difference.
        max_rel: that, over the largest value in float32.
        rms_rel: root mean square of the differences over that of the values: what is judged, as
            single pixels of an output such as a unit vector can be at the mercy of any rounding.
    """

    stage: Identifier
    views: int
    output: Identifier
    max_abs: float
    max_rel: float
    rms_rel: float


class SceneDrift(StrictModel):
    """Drift of the scene's cameras and depth from float32, on the check's images.

    Formulas: `covis.evaluation.metrics.drift`. Bundles exported before those formulas were shared
    recorded the largest rotation of a camera in the world and the mean depth change of all views.

    Attributes:
        views: Number of views of the check.
        pose_degrees: Pose drift in degrees; None where no stage writes a camera.
        depth_relative: Depth drift as a fraction; None where no stage writes a depth.
    """

    views: int
    pose_degrees: float | None
    depth_relative: float | None


class Precision(StrictModel):
    """In what types the graphs compute, how they got there, and what it costs.

    Attributes:
        name: of `covis export --precision`.
        keep_fp32: stages and layers left in float32 on request.
        passes: rewrites of the graphs, in order.
        calibration: photos that set the scales of FP8.
        fp8_attention: attention is permitted FP8: level 1 where the map has 2.
        ran_as: how ONNX Runtime's CPU provider ran the graphs for the drift; empty: it was not
            measured.
        drift: by output; empty in float32, whose verdicts are the manifest's `checks`.
        scene: the same for whole scenes.
    """

    name: Literal["fp32", "fp16", "bf16", "fp8"] = "fp32"
    keep_fp32: tuple[str, ...] = ()
    passes: tuple[PassRecord, ...] = ()
    calibration: Count = 0
    fp8_attention: bool = False
    ran_as: str = ""
    drift: tuple[Drift, ...] = ()
    scene: tuple[SceneDrift, ...] = ()


class Weights(StrictModel):
    """Where the weights came from, as the user gave it.

    `dtype` is that of the linear layers where the bundle's precision mixes types.
    """

    file: FileName
    source: str
    revision: str | None
    licence: str
    dtype: WeightsDtype


class Model(StrictModel):
    """The architecture and the facts the runtime needs of it.

    Attributes:
        name: vggt, pi3 or mapanything.
        config: the configuration `load_model` takes.
        patch: pixels a patch side.
        special_first: special tokens at the start of each frame.
        special_last: special tokens at the end of each frame.
        trailing_tokens: tokens behind the last frame.
        global_layers: number L of global attention layers.
        global_heads: attention heads of those layers.
        metric: lengths are in metres.
        reference_view: whether view 0 is the model's reference.
    """

    name: Identifier
    config: dict[str, Any]
    patch: Annotated[int, Field(ge=1)]
    special_first: Count
    special_last: Count
    trailing_tokens: Count
    global_layers: Count
    global_heads: Count
    metric: bool
    reference_view: bool


class Tuning(StrictModel):
    """The receipt of `covis tune`: how the bundle's own `sparsity` was chosen.

    Attributes:
        covis_version: that tuned.
        tuned_manifest: sha256 of the manifest before.
        views: photos tuned on.
        checked_views: other photos that the choice was checked on.
        tried: settings run.
        max_pose_drift: bound on any camera, in degrees from the dense result.
        max_depth_drift: bound on any view's depth, relative to the dense result.
        pose_drift: measured, the worst.
        depth_drift: measured, the worst.
        attention_work: share of the blocks of global attention that the choice computes.
        time_ratio: dense over the choice, of the whole pipeline, on the machine that tuned.
    """

    covis_version: str
    tuned_manifest: Digest
    views: Count
    checked_views: Count
    tried: Count
    max_pose_drift: float
    max_depth_drift: float
    pose_drift: float
    depth_drift: float
    attention_work: float
    time_ratio: float


class Manifest(StrictModel):
    """The bundle's table of contents; see docs/explanation/design.md section 3."""

    format: Literal[1]
    covis_version: str
    op_version: Literal[1]
    opset: int
    model: Model
    weights: Weights
    pixel_rule: PixelRule
    pooling: Literal["descriptor", "best-match"]
    sparsity: Sparsity
    precision: Precision = Precision()
    stages: tuple[Stage, ...]
    checks: tuple[Check, ...]
    files: tuple[File, ...]
    tuning: Tuning | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        listed = [file.path for file in self.files]
        if len(set(listed)) != len(listed):
            raise ValueError("a file is listed twice")
        needed = {stage.graph for stage in self.stages} | {self.weights.file}
        if missing := needed - set(listed):
            raise ValueError(f"{sorted(missing)[0]!r} is used but not listed under files")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError("a stage is listed twice")
        if self.pixel_rule.patch != self.model.patch:
            raise ValueError("pixel_rule and model differ in the size of a patch")
        size = (3, self.pixel_rule.height, self.pixel_rule.width)
        for stage in self.stages:
            for tensor in stage.inputs:
                if tensor.name == "images" and tensor.shape[1:] != size:
                    raise ValueError(f"stage {stage.name!r} reads images of another size")
        self._check_flow()
        return self

    def _check_flow(self) -> None:
        """Every stage reads what an earlier one writes, in the same type and shape.

        What no stage writes at all is the photos or a control input, and the runtime's to know.
        """
        made = {tensor.name for stage in self.stages for tensor in stage.outputs}
        written: dict[str, Tensor] = {}
        for stage in self.stages:
            for tensor in stage.inputs:
                source = written.get(tensor.name)
                if source is None and tensor.name in made:
                    raise ValueError(
                        f"stage {stage.name!r} reads {tensor.name!r} before any stage writes it"
                    )
                if source is not None and _plain(source) != _plain(tensor):
                    raise ValueError(
                        f"stage {stage.name!r} reads {tensor.name!r} in another type or shape "
                        "than it was written in"
                    )
            for kind, tensors in (("input", stage.inputs), ("output", stage.outputs)):
                if len({tensor.name for tensor in tensors}) != len(tensors):
                    raise ValueError(f"stage {stage.name!r} lists an {kind} twice")
            written.update((tensor.name, tensor) for tensor in stage.outputs)

    def stage(self, name: str) -> Stage:
        """The stage of that name; KeyError where the model has none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    @property
    def patches(self) -> int:
        """Patches P a frame."""
        rule = self.pixel_rule
        return (rule.height // self.model.patch) * (rule.width // self.model.patch)
