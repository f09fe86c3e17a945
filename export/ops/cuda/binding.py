"""Load libcovis_kernels and launch its kernels: what the bindings of all ops share.

Tensors are passed without a copy, on torch's current stream.
"""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from covis.engines.errors import CovisError, environment_error, user_error
from covis.engines.system.native import KERNELS_LIBRARY, find_library
from covis.export.ops.attributes import RegionAttributes

ABI_VERSION: Final = 1
DTYPES: Final = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}
_USER_STATUS: Final = (1, 2)  # bad argument, unsupported; other statuses are the machine's fault

Stride = ctypes.c_int64 * 3
# Fields of a params struct that describe (B, H, S, D) tokens and their regions, in struct order.
TOKEN_FIELDS: Final = (
    ("batch", ctypes.c_int64),
    ("heads", ctypes.c_int64),
    ("tokens", ctypes.c_int64),
    ("head_dim", ctypes.c_int64),
    ("frame_tokens", ctypes.c_int64),
    ("special_first", ctypes.c_int64),
    ("special_last", ctypes.c_int64),
    ("trailing_tokens", ctypes.c_int64),
    ("q_block", ctypes.c_int64),
    ("k_block", ctypes.c_int64),
)
WORKSPACE_FIELDS: Final = (("workspace", ctypes.c_void_p), ("workspace_bytes", ctypes.c_uint64))


@cache
def load_kernels(path: Path | None = None) -> ctypes.CDLL:
    """Load the kernel library at `path`, or the one that the build produced.

    Raises:
        CovisError: it does not exist, does not load, or has another ABI version.
    """
    found = find_library(KERNELS_LIBRARY, path)
    if found is None:
        raise environment_error(
            "the CUDA kernels are not built",
            where=path or KERNELS_LIBRARY,
            hint="run `make plugins`",
        )
    try:
        library = ctypes.CDLL(str(found))
        version = int(library.covis_abi_version())
    except (OSError, AttributeError) as error:
        raise environment_error(
            f"cannot be used ({error})", where=found, hint="build it anew"
        ) from error
    if version != ABI_VERSION:
        raise environment_error(
            f"has ABI version {version}, not {ABI_VERSION}", where=found, hint="build it anew"
        )
    return library


def unsupported_type(q: Tensor, dtypes: Collection[torch.dtype]) -> str | None:
    """Return why kernels for these types cannot take `q`, or None."""
    if not q.is_cuda:
        return f"tensors are on {q.device}, not on a GPU"
    if q.dtype not in dtypes:
        *first, last = (str(dtype).removeprefix("torch.") for dtype in dtypes)
        return f"the type is {q.dtype}, not {', '.join(first)} or {last}"
    return None


def unsupported_gpu(device: torch.device) -> str | None:
    """Return why the library has no code for this GPU, or None."""
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return None


def check_device(reference: Tensor, tensors: dict[str, Tensor]) -> None:
    """Raise CovisError for the first tensor that is not on the device of `reference`."""
    for name, tensor in tensors.items():
        if tensor.device != reference.device:
            raise user_error(
                f"is on {tensor.device}", where=name, hint=f"move it to {reference.device}"
            )


def set_tokens(params: Any, q: Tensor, attributes: RegionAttributes) -> None:
    """Write type, shape and attributes of the tokens to a params struct.

    Attributes that the struct has no field for, or that are no numbers, are left to the caller.
    """
    params.data_type = DTYPES[q.dtype]
    params.batch, params.heads, params.tokens, params.head_dim = q.shape
    values = attributes.flat()
    for name in [name for name, _ in TOKEN_FIELDS if name in values]:
        setattr(params, name, values[name])


def launch(library: ctypes.CDLL, op: str, params: Any, device: torch.device) -> None:
    """Allocate the workspace of a launch and launch it on torch's current stream.

    The workspace is released on return. Later work on the stream cannot overtake the launch,
    because released memory returns to the pool of this stream.

    Raises:
        CovisError: the library rejected the params; nothing was launched.
    """
    with torch.cuda.device(device):
        size = ctypes.c_uint64()
        call(library, f"{op}_workspace", ctypes.byref(params), ctypes.byref(size))
        workspace = torch.empty(max(size.value, 1), dtype=torch.uint8, device=device)
        params.workspace, params.workspace_bytes = workspace.data_ptr(), size.value
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        call(library, f"{op}_launch", ctypes.byref(params), stream)


def call(library: ctypes.CDLL, function: str, *arguments: object) -> None:
    """Call a function of the C ABI whose last parameters are (message, message_bytes).

    Raises:
        CovisError: the status is not 0; the text is the library's message.
    """
    message = ctypes.create_string_buffer(512)
    status = getattr(library, function)(*arguments, message, ctypes.c_size_t(len(message)))
    if status != 0:
        raise _error(status, function, message.value.decode(errors="replace"))


def _error(status: int, function: str, message: str) -> CovisError:
    if status in _USER_STATUS:
        return user_error(message, where=function)
    return environment_error(message, where=function)
