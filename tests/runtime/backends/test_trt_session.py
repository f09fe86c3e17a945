"""TensorRT session: checks that need no GPU. The others are in tests/gpu/engine_checks."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covis.engines.bundle.bundle import open_bundle
from covis.engines.errors import CovisError
from covis.engines.tensorrt.plans.record import EngineOptions, PlanRecord, Range
from covis.runtime.backends.trt_session import Session, SessionOptions, tensorrt_dtype
from covis.runtime.memory.device_array import DeviceArray, adopt, contiguous, is_contiguous

# class: {method: its arguments}; a property has none.
CALLS: dict[str, dict[str, tuple[str, ...] | None]] = {
    "Runtime": {"deserialize_cuda_engine": ("serialized_engine",)},
    "Refitter": {"refit_cuda_engine": ()},
    "OnnxParserRefitter": {"refit_from_bytes": ("model", "path")},
    "ICudaEngine": {
        "create_execution_context": ("strategy",),
        "num_io_tensors": None,
        "get_tensor_name": ("index",),
        "get_tensor_location": ("name",),
        "get_tensor_dtype": ("name",),
        "device_memory_size_v2": None,
    },
    "IExecutionContext": {
        "set_input_shape": ("name", "shape"),
        "infer_shapes": (),
        "get_tensor_shape": ("name",),
        "set_tensor_address": ("name", "memory"),
        "update_device_memory_size_for_shapes": (),
        "set_device_memory": ("memory", "size"),
        "execute_async_v3": ("stream_handle",),
    },
}


@pytest.mark.trt
@pytest.mark.parametrize("owner", CALLS)
def test_tensorrt_has_what_is_called(owner: str) -> None:
    """Against the real module: `PYTHONPATH=... pytest -m trt` and this file's name."""
    trt = pytest.importorskip("tensorrt")
    for name, arguments in CALLS[owner].items():
        member = getattr(getattr(trt, owner), name)
        if arguments is None:
            assert isinstance(member, property)
            continue
        signatures = re.findall(rf"{name}\(self: [^,)]*,? ?(.*)\) ->", member.__doc__)
        taken = [tuple(re.findall(r"(?:^|, )(\w+): ", text)) for text in signatures]
        assert arguments in taken, f"{owner}.{name}{arguments}: {taken}"


@pytest.mark.trt
def test_tensorrt_has_every_type() -> None:
    trt = pytest.importorskip("tensorrt")
    names = ("float32", "float16", "bfloat16", "int8", "int32", "int64", "bool")
    found = [tensorrt_dtype(trt, name) for name in names]
    assert len(set(found)) == len(names)
    assert trt.ExecutionContextAllocationStrategy.USER_MANAGED is not None
    assert trt.TensorLocation.HOST != trt.TensorLocation.DEVICE


def test_cuda_core_has_what_is_called() -> None:
    """`cuda.core` can be imported without a driver; its names are checked for real."""
    core = pytest.importorskip("cuda.core")
    utils = pytest.importorskip("cuda.core.utils")
    for owner, names in {
        core.Device: ("set_current", "create_stream", "device_id"),
        core.Stream: ("sync", "wait", "record", "handle", "device", "from_handle",
                      "create_graph_builder"),
        core.Buffer: ("from_handle", "copy_from", "handle"),
        core.DeviceMemoryResource: ("allocate", "attributes", "handle"),
        core.Event: ("sync", "is_done"),
        core.graph.GraphBuilder: ("begin_building", "end_building", "complete", "close"),
        core.graph.Graph: ("launch", "close"),
        utils.StridedMemoryView: ("from_any_interface", "from_buffer", "__dlpack__", "ptr",
                                  "shape", "strides", "dtype", "device_id",
                                  "is_device_accessible"),
    }.items():  # fmt: skip
        assert not [name for name in names if not hasattr(owner, name)], owner
    assert core.EventOptions(timing_enabled=True).timing_enabled
    core.DeviceMemoryResourceOptions()
    driver = pytest.importorskip("cuda.bindings.driver")
    assert driver.CUmemPool_attribute.CU_MEMPOOL_ATTR_USED_MEM_HIGH is not None
    assert callable(driver.cuMemPoolSetAttribute) and callable(driver.cuMemGetInfo)


def record_of(plan: Path, stage: str) -> PlanRecord:
    data = plan.read_bytes()
    return PlanRecord(
        stage=stage, precision="fp32", graph="0" * 64, parser_copy=1, weights="0" * 64,
        plugin=None, tensorrt="10.15.1.29", cuda="13.0", driver_branch="580", gpu="NVIDIA H200",
        compute_capability=(9, 0), profile={"N": Range(min=1, opt=8, max=16)},
        options=EngineOptions(), file=plan.name, size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )  # fmt: skip


@pytest.mark.parametrize("trusted", [False, True])
def test_a_tampered_plan_is_never_deserialised(
    tiny_bundle: Path, tmp_path: Path, trusted: bool
) -> None:
    """Refused before TensorRT or a GPU is even looked for."""
    plan = tmp_path / "encoder.plan"
    plan.write_bytes(b"built here")
    record = record_of(plan, "encoder")
    plan.write_bytes(b"built hers")
    stage = open_bundle(tiny_bundle).manifest.stage("encoder")
    options = SessionOptions(tmp_path, trusted=(record.sha256,) if trusted else ())
    words = "is not what was built" if trusted else "was not built by this user"
    with pytest.raises(CovisError, match=words) as caught:
        Session(record, stage, options, None)  # type: ignore[arg-type]
    assert caught.value.code == 2


def array(shape: tuple[int, ...], dtype: Any = np.float32) -> DeviceArray:
    return DeviceArray(None, 0x7F00_0000_0000, shape, np.dtype(dtype), None)


def test_device_arrays_are_cut_like_numpy_arrays() -> None:
    whole = array((10, 3, 4), np.float16)
    host = np.empty((10, 3, 4), np.float16)
    for cut in (slice(0, 10), slice(4, 7), slice(9, 20), slice(3, 3), slice(None)):
        part = whole[cut]
        assert part.shape == host[cut].shape and part.nbytes == host[cut].nbytes
        if part.nbytes:
            assert part.ptr - whole.ptr == host[cut].ctypes.data - host.ctypes.data
    with pytest.raises(IndexError, match="adjoining"):
        whole[::2]
    assert len(whole) == 10


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (np.s_[...], True),
        (np.s_[2:3], True),
        (np.s_[:, 1:2], False),
        (np.s_[::2], False),
        (np.s_[:1, :, :], True),
        (np.s_[:1, :1], True),
        (np.s_[:0], True),
    ],
)
def test_contiguity_is_numpys(view: Any, expected: bool) -> None:
    part = np.zeros((4, 5, 6), np.float32)[view]
    strides = tuple(stride // part.itemsize for stride in part.strides)
    assert is_contiguous(part.shape, strides) is bool(part.flags.c_contiguous) is expected
    turned = part.swapaxes(-1, -2)
    if 0 not in turned.shape and min(turned.shape[-2:]) > 1:
        assert not is_contiguous(turned.shape, tuple(s // 4 for s in turned.strides))


def test_scalars_stay_scalars() -> None:
    scalar = np.zeros((), np.float32)
    assert contiguous(scalar).shape == () and contiguous(scalar) is scalar
    turned = np.zeros((3, 4), np.float32).T
    assert contiguous(turned).flags.c_contiguous and contiguous(turned) is not turned


def test_host_arrays_of_others_are_taken_in_without_a_stream() -> None:
    """Torch rejects a stream for them; a transposed array is made contiguous, like NumPy's."""
    torch = pytest.importorskip("torch")
    source = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    taken = adopt(source, None, 0)
    assert isinstance(taken, np.ndarray) and taken.ctypes.data == source.data_ptr()
    turned = adopt(source.T, None, 0)
    assert isinstance(turned, np.ndarray) and turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, source.numpy().T)
