"""Traces of models that many tests export: one a test run, however many processes run it.

Tracing is nine tenths of an export of a tiny model. The tests that need a graph, and do not test
the tracer, share the traces of stages that are equal in everything: code, ports, settings, weights.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType
from typing import Any

import onnx
import onnx_ir as ir
import torch
from filelock import FileLock
from torch import Tensor, nn

from covis.export import write
from covis.export.stage import StageModule
from covis.export.trace import export_graph

FOLDER = "COVIS_TEST_TRACES"
"""Variable of the environment: the folder of a run's traces. `make test` gives its two runs one."""


class UnknownKindError(TypeError):
    """An object holds something of which it is not known what makes it equal to another."""


@contextmanager
def shared_traces(*, anew: bool = False) -> Iterator[None]:
    """Exports inside take the run's trace of each stage, and make those that are not there.

    Args:
        anew: trace every stage, as an export outside of the tests does, for others to take.
    """
    original = write.export_graph
    write.export_graph = partial(shared_graph, anew=anew)
    try:
        yield
    finally:
        write.export_graph = original


def shared_graph(stage: StageModule, *, anew: bool = False) -> ir.Model:
    """`export_graph` of the stage, traced by whichever process asked first."""
    folder = os.environ.get(FOLDER)
    try:
        name = digest(stage)
    except UnknownKindError:
        folder = None
    if not folder:
        return export_graph(stage)
    path = Path(folder) / f"{stage.name}-{name[:32]}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if anew or not path.is_file():
            model = export_graph(stage)
            part = path.with_suffix(".part")
            part.write_bytes(ir.to_proto(model).SerializeToString())
            part.rename(path)
            return model
    model = ir.from_proto(onnx.load(path))
    for key, parameter in stage.module.named_parameters(remove_duplicate=False):
        value = model.graph.initializers.get(key.removeprefix("model."))
        if value is not None:
            value.const_value = ir.tensor(parameter.detach(), name=value.name)
    return model


def digest(value: object) -> str:
    """SHA-256 of all that a trace can depend on but for the package's own code.

    Of parameters only type and shape: a tracer does not see their values, and a graph holds them by
    name.

    Raises:
        UnknownKindError: of that object it cannot be said.
    """
    state = hashlib.sha256()
    _add(state, value, {})
    return state.hexdigest()


def _add(state: Any, value: Any, seen: dict[int, tuple[int, object]]) -> None:
    add = partial(_add, state, seen=seen)
    if value is None or isinstance(value, (bool, int, float, str, bytes, PurePath)):
        state.update(f"{type(value).__name__} {value!r};".encode())
        return
    if id(value) in seen:  # again, or inside itself
        state.update(f"seen {seen[id(value)][0]};".encode())
        return
    seen[id(value)] = len(seen), value  # kept, or its number could be given to another
    kind = type(value)
    state.update(f"{kind.__module__}.{kind.__qualname__};".encode())
    if isinstance(value, Tensor):
        add(str(value.dtype))
        add(tuple(value.shape))
        if not isinstance(value, nn.Parameter):
            state.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, (torch.dtype, torch.device, enum.Enum)):
        add(str(value))
    elif isinstance(value, (list, tuple)):
        for item in value:
            add(item)
    elif isinstance(value, (set, frozenset)):
        for item in sorted(value, key=repr):
            add(item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            add(key)
            add(item)
    elif isinstance(value, type):
        add(f"{value.__module__}.{value.__qualname__}")
    elif isinstance(value, FunctionType):
        add(value.__qualname__)
        add(value.__code__)
        add(value.__defaults__)
        add([cell.cell_contents for cell in value.__closure__ or ()])
    elif isinstance(value, CodeType):
        state.update(value.co_code)
        for item in value.co_consts:
            add(item)
        add(value.co_names)
    elif isinstance(value, MethodType):
        add(value.__func__)
        add(value.__self__)
    elif isinstance(value, partial):
        add([value.func, value.args, value.keywords])
    elif isinstance(value, nn.Module) or dataclasses.is_dataclass(value):
        add(vars(value))
    else:
        raise UnknownKindError(f"{kind.__module__}.{kind.__qualname__}")
