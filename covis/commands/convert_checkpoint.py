"""`covis convert-checkpoint`: a pickled checkpoint to safetensors."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class ConvertCommand:
    """Convert your own pickled checkpoint to safetensors, in a limited process of its own.

    Attributes:
        checkpoint: Checkpoint written by torch.save: `.pt`, `.pth`, `.bin` or `.ckpt`. Nothing in
            it is run.
        out: Safetensors file to write.
        key: Name of the dictionary of weights in the checkpoint.
        force: Replace an existing file.
    """

    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")]
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    key: Annotated[
        str | None,
        tyro.conf.arg(
            help_behavior_hint="(default: state_dict, model_state_dict, model or module)"
        ),
    ] = None
    force: bool = False


def convert(command: ConvertCommand) -> None:
    """Convert a checkpoint; show the number of tensors, and what was left out."""
    from covis.engines.errors import environment_error, printable

    if importlib.util.find_spec("torch") is None:  # importing it is the other process's part
        raise environment_error(
            "PyTorch, which reads pickles, is not installed",
            hint="pip install 'covis[cpu,export]'",
        )
    from covis.export.weights.convert_checkpoint import convert_checkpoint
    from covis.export.weights.keys import some

    done = convert_checkpoint(command.checkpoint, command.out, command.key, force=command.force)
    name = printable(command.out)
    print(f"{name}: {done.tensors} tensors, {done.size / 1e6:,.1f} MB", file=sys.stderr)
    if done.left_out:
        print(f"  left out: {some(list(done.left_out))}", file=sys.stderr)
