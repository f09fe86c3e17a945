"""The trtexec command that builds the same engine as `covis build`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from covis.engines.tensorrt.plans.record import EngineOptions
from covis.engines.tensorrt.plans.profiles import InputShapes, format_shapes


@dataclass(frozen=True)
class TrtexecCommand:
    """Arguments of a trtexec command.

    Attributes:
        onnx: Graph as TensorRT's parser must get it (see `--parser-onnx`).
        plan: Path of the plan to write.
        shapes: Shape of every graph input; fixed ones are omitted, as trtexec requires.
        options: Options that change the engine.
        plugin: Plugin library; None if the graph contains no node of the three ops.
        static: Pass the library as a static plugin instead of a dynamic one.
        timing: File of measured kernel times; None for none.
        layers: File for the layer information; None for none.
        device: Index of the GPU.
        verbose: Print TensorRT's whole log.
    """

    onnx: Path
    plan: Path
    shapes: InputShapes
    options: EngineOptions
    plugin: Path | None = None
    static: bool = False
    timing: Path | None = None
    layers: Path | None = None
    device: int = 0
    verbose: bool = False

    def line(self) -> str:
        """Return the command, quoted for a shell; valid for trtexec of TensorRT 10.6 to 11.x."""
        options = self.options
        words = ["trtexec", f"--onnx={self.onnx}", f"--saveEngine={self.plan}"]
        words += ["--stronglyTyped", "--skipInference"]  # in 11 the former is the default
        dynamic = [name for name in self.shapes.max if name in self.shapes.dynamic]
        for end in ("min", "opt", "max") if dynamic else ():
            shapes = getattr(self.shapes, end)
            words.append(f"--{end}Shapes={format_shapes({name: shapes[name] for name in dynamic})}")
        pools = {"workspace": options.workspace, "tacticSharedMem": options.tactic_shared_memory}
        if limits := [f"{name}:{size}B" for name, size in pools.items() if size is not None]:
            words.append(f"--memPoolSize={','.join(limits)}")
        words.append(f"--builderOptimizationLevel={options.builder_optimization_level}")
        words.append(f"--profilingVerbosity={options.profiling_verbosity}")
        if options.hardware_compatibility != "none":
            words.append(f"--hardwareCompatibilityLevel={options.hardware_compatibility}")
        flags = {
            "--noTF32": not options.tf32,
            "--stripWeights": options.strip_weights,
            "--refit": options.refit,
            "--verbose": self.verbose,
        }
        words += [flag for flag, is_set in flags.items() if is_set]
        if self.plugin is not None:
            words.append(f"--{'static' if self.static else 'dynamic'}Plugins={self.plugin}")
        if self.timing is not None:
            words.append(f"--timingCacheFile={self.timing}")
        if self.layers is not None:
            words.append(f"--exportLayerInfo={self.layers}")
        if self.device:
            words.append(f"--device={self.device}")
        return shlex.join(words)
