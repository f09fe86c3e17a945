"""Contents of a bundle's `manifest.json`, strictly typed."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from covis.engines.bundle.names import IMAGES
from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.limits import DIMENSION, FILE_NAME, FILES, RANK, STAGES, TENSORS, TEXT
from covis.engines.options import Sparsity

FORMAT: Final = 2  # version of the manifest's format; a reader rejects any other
OPSET: Final = 20  # version of the standard ONNX operators in the graphs

Scope = Literal["frames", "sequence"]
WeightsDtype = Literal["float32", "float16", "bfloat16", "float8_e4m3fn"]
Dtype = Literal["float32", "float16", "bfloat16", "int8", "int32", "int64", "bool"]


def _inside(name: str) -> str:
    """Accept only plain relative paths that stay inside the bundle."""
    if len(name.encode()) > FILE_NAME.most:  # else the system's refusal, as if it lacked something
        raise ValueError(f"a path of more than {FILE_NAME}")
    path = PurePosixPath(name)
    if not name or "\\" in name or "\0" in name or path.is_absolute() or str(path) != name:
        raise ValueError(f"{name!r} is no plain relative path")
    if name == "." or ".." in path.parts:
        raise ValueError(f"{name!r} leaves the bundle")
    return name


FileName = Annotated[str, AfterValidator(_inside)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Text = Annotated[str, Field(max_length=TEXT.most)]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


class StrictModel(BaseModel):
    """Base of records read from files: no conversion of types, no unknown field, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Tensor(StrictModel):
    """A named input or output of a stage.

    Attributes:
        name: Name of the tensor; stages that share it pass the tensor on.
        dtype: Element type.
        shape: Sizes and symbols: `M` all views, `N` the frames of a chunk, `K` sampled queries,
            `R` maps of view pairs.
    """

    name: Identifier
    dtype: Dtype
    shape: Annotated[
        tuple[Annotated[int, Field(ge=0, le=DIMENSION.most)] | Literal["M", "N", "K", "R"], ...],
        Field(max_length=RANK.most),
    ]


def _plain(tensor: Tensor) -> tuple[str, tuple[int | str, ...]]:
    """Return type and shape, with M for N, because all chunks together are the views."""
    return tensor.dtype, tuple("M" if size == "N" else size for size in tensor.shape)


class Stage(StrictModel):
    """One graph of the model.

    Attributes:
        name: Name of the stage.
        scope: `frames` stages run in chunks of frames, `sequence` stages on all views at once.
        graph: File name of the ONNX graph.
        inputs: Inputs of the graph.
        outputs: Outputs of the graph.
        longest: Largest M (for `frames` stages N) at which every tensor of the graph has fewer than
            2^31 elements, TensorRT's limit; None in bundles that do not record it.
    """

    name: Identifier
    scope: Scope
    graph: FileName
    inputs: Annotated[tuple[Tensor, ...], Field(max_length=TENSORS.most)]
    outputs: Annotated[tuple[Tensor, ...], Field(max_length=TENSORS.most)]
    longest: Annotated[int, Field(ge=0)] | None = None

    def writes(self, name: str) -> bool:
        """Return whether the tensor of this name is an output of the stage."""
        return any(tensor.name == name for tensor in self.outputs)


class File(StrictModel):
    """Relative path, size in bytes and sha256 of a file of the bundle."""

    path: FileName
    size: Annotated[int, Field(ge=0, lt=2**63)]
    sha256: Digest


class Check(StrictModel):
    """Result of comparing one output of one exported graph with PyTorch.

    Attributes:
        stage: Name of the stage.
        views: Number of views of the check.
        output: Name of the output.
        max_abs_diff: Largest absolute difference.
        tolerance: Largest difference that passes.
    """

    stage: Identifier
    views: int
    output: Identifier
    max_abs_diff: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """True if the difference is within the tolerance."""
        return self.max_abs_diff <= self.tolerance


class PassRecord(StrictModel):
    """Name and version of a rewrite that was applied to the graphs at export."""

    name: Identifier
    version: Annotated[int, Field(ge=1)]


class Drift(StrictModel):
    """End-to-end difference of one output of a narrow bundle from float32, on the check's images.

    Attributes:
        stage: Name of the stage that writes the output.
        views: Number of views of the check.
        output: Name of the output.
        max_abs: Largest absolute difference.
        max_rel: Largest absolute difference over the largest absolute value in float32.
        rms_rel: Root mean square of the differences over that of the values in float32. This is
            the number that is judged, because rounding can change single pixels, for instance of a
            unit vector, by any amount.
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
    """Element types in which the graphs compute, the passes that set them, and the loss measured.

    Attributes:
        name: Value of `covis export --precision`.
        keep_fp32: Stages and layers that stay in float32 on request.
        passes: Rewrites of the graphs, in order.
        calibration: Number of photos that determined the scales of FP8.
        fp8_attention: Attention may run in FP8: level 2 of the map is lowered to 1.
        ran_as: Precision in which ONNX Runtime's CPU provider ran the graphs to measure the drift;
            empty if it was not measured.
        drift: Drift of every output; empty in float32, which has the manifest's `checks`.
        scene: Drift of whole scenes.
    """

    name: Literal["fp32", "fp16", "bf16", "fp8"] = "fp32"
    keep_fp32: tuple[Text, ...] = ()
    passes: tuple[PassRecord, ...] = ()
    calibration: Count = 0
    fp8_attention: bool = False
    ran_as: Text = ""
    drift: tuple[Drift, ...] = ()
    scene: tuple[SceneDrift, ...] = ()


class Weights(StrictModel):
    """File and origin of the weights, as the user named them.

    Attributes:
        file: File name of the safetensors file.
        source: Repository or path of the checkpoint.
        revision: Revision of the repository; None if there is none.
        licence: Licence of the weights.
        dtype: Element type; that of the linear layers if the bundle's precision mixes types.
    """

    file: FileName
    source: Text
    revision: Text | None
    licence: Text
    dtype: WeightsDtype


class Model(StrictModel):
    """The architecture, and those of its properties that the runtime needs.

    Attributes:
        name: vggt, pi3 or mapanything.
        config: Configuration that `load_model` takes.
        patch: Side of a patch in pixels.
        special_first: Number of special tokens at the start of each frame.
        special_last: Number of special tokens at the end of each frame.
        trailing_tokens: Number of tokens behind the last frame.
        global_layers: Number L of global attention layers.
        global_heads: Number of attention heads of those layers.
        metric: Lengths are in metres.
        reference_view: View 0 is the model's reference.
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
    """Record of `covis tune` or `covis profile`, which chose the bundle's default `sparsity`.

    Attributes:
        covis_version: Version of covis that tuned.
        tuned_manifest: sha256 of the manifest before tuning.
        views: Number of photos used for tuning.
        checked_views: Number of other photos on which the choice was checked.
        tried: Number of settings that were run.
        max_pose_drift: Bound on the drift of any camera from the dense result, in degrees.
        max_depth_drift: Bound on the drift of any view's depth, relative to the dense result.
        pose_drift: Largest pose drift measured, in degrees.
        depth_drift: Largest depth drift measured, as a fraction.
        attention_work: Share of the blocks of global attention that the choice computes.
        time_ratio: Time of the whole pipeline, dense over the choice, on the machine that tuned.
    """

    covis_version: Text
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


class Listing(BaseModel):
    """Files of a bundle, from a manifest of any version; the other fields are ignored."""

    files: Annotated[tuple[File, ...], Field(max_length=FILES.most)]


class Manifest(StrictModel):
    """Contents of `manifest.json`; see docs/explanation/design.md section 3."""

    format: Literal[2]
    covis_version: Text
    op_version: Literal[1]
    opset: Count
    model: Model
    weights: Weights
    pixel_rule: PixelRule
    pooling: Literal["descriptor", "best-match"]
    sparsity: Sparsity
    precision: Precision = Precision()
    stages: Annotated[tuple[Stage, ...], Field(max_length=STAGES.most)]
    checks: tuple[Check, ...]
    files: Annotated[tuple[File, ...], Field(max_length=FILES.most)]
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
                if tensor.name == IMAGES and tensor.shape[1:] != size:
                    raise ValueError(f"stage {stage.name!r} reads images of another size")
        self._check_flow()
        return self

    def _check_flow(self) -> None:
        """Check that a stage reads what an earlier one writes, in the same type and shape.

        Inputs that no stage writes are the photos and the control inputs, which the runtime checks.
        """
        outputs = {tensor.name for stage in self.stages for tensor in stage.outputs}
        written: dict[str, Tensor] = {}
        for stage in self.stages:
            for tensor in stage.inputs:
                source = written.get(tensor.name)
                if source is None and tensor.name in outputs:
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
        """Return the stage of that name.

        Raises:
            KeyError: there is no such stage.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    @property
    def patches(self) -> int:
        """Number of patches P of a frame."""
        rule = self.pixel_rule
        return (rule.height // self.model.patch) * (rule.width // self.model.patch)
