"""The kernels of libcovis_kernels on the CPU: the emulated library from Python, on host tensors."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from covis.engines.errors import CovisError
from covis.export.ops.attributes import AttentionAttributes, SelectAttributes
from covis.export.ops.cuda import attention, binding, farthest, saliency, select

FOLDER = Path(__file__).resolve().parents[2] / "build" / "cuda" / "emulator"
# Products and copies happen as late as they may; every checker but the race detector, which costs
# three times as much; an H100's 132 multiprocessors, emulated on two threads of the host.
DEFAULTS = {
    "lazy_wgmma": 1,
    "lazy_copies": 1,
    "chaos": 0,
    "checks": 1,
    "races": 0,
    "fp8_bits": 0,
    "seed": 1,
    "threads": 2,
    "multiprocessors": 132,
    "max_instructions": 0,
}
COUNTERS = ("launches", "ctas", "instructions", "products", "copies", "stores")


class StoppedError(RuntimeError):
    """The emulator stopped: a fault, a deadlock, or an instruction that it does not know."""


def load_emulator(name: str, ptx: str) -> ctypes.CDLL:
    """A library of the emulator's build with the kernels of the folder `ptx` loaded into it.

    Skips the calling test where the build has left no such library.
    """
    path = FOLDER / name
    if not path.is_file() or not any((FOLDER / ptx).glob("*.ptx")):
        pytest.skip(f"build/cuda/emulator/{name} is not built (make plugins)")
    library = ctypes.CDLL(str(path))
    for function in ("load_ptx", "take_error", "take_findings"):
        getattr(library, f"emulator_{function}").restype = ctypes.c_char_p
    library.emulator_allow.argtypes = (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int)
    library.emulator_option.argtypes = (ctypes.c_char_p, ctypes.c_uint64)
    for file in sorted((FOLDER / ptx).glob("*.ptx")):
        load_ptx(library, file)
    return library


def load_ptx(library: ctypes.CDLL, path: Path) -> None:
    """Load the kernels of a PTX file, in place of loaded ones of the same names.

    Raises:
        StoppedError: the text holds what the emulator does not know.
    """
    error = library.emulator_load_ptx(str(path).encode())
    if error:
        raise StoppedError(error.decode())


def ptx_of(entry: str) -> Path:
    """The PTX file of the build whose kernel's mangled name holds `entry`."""
    for path in sorted((FOLDER / "covis_kernels_ptx").glob("*.ptx")):
        names = re.findall(r"\.entry (\w+)", path.read_text())
        if any(entry in name for name in names):
            return path
    raise LookupError(f"no kernel {entry}")


class Emulator:
    """The emulated kernels; one for each process, as the library keeps its state."""

    def __init__(self) -> None:
        self.library = load_emulator("libcovis_emulated.so", "covis_kernels_ptx")
        assert self.library.covis_abi_version() == binding.ABI_VERSION
        self.set_options()

    def set_options(self, **values: int) -> None:
        """Set these options, and all others to their defaults."""
        for name, value in {**DEFAULTS, **values}.items():
            if self.library.emulator_option(name.encode(), int(value)) != 0:
                raise KeyError(name)

    @contextmanager
    def options(self, **values: int) -> Iterator[None]:
        """Set these options for the launches inside."""
        self.set_options(**values)
        try:
            yield
        finally:
            self.set_options()

    def take_findings(self) -> list[str]:
        """What the checkers have seen since the last call, a line each; launches went on."""
        text: bytes = self.library.emulator_take_findings()
        return text.decode().splitlines()

    def counters(self) -> dict[str, int]:
        """How much was emulated since the library was loaded."""
        values = (ctypes.c_uint64 * len(COUNTERS))()
        self.library.emulator_counters(values)
        return dict(zip(COUNTERS, values, strict=True))

    def call(
        self,
        function: str,
        params: ctypes.Structure,
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
    ) -> None:
        """Ask for the workspace and launch; the kernels may touch these tensors alone.

        The workspace is filled with ones, which are NaN in every type.

        Raises:
            StoppedError: the emulator stopped the launch, and why.
            CovisError: the library itself refused it.
        """
        try:
            size = ctypes.c_uint64()
            binding.call(
                self.library, f"{function}_workspace", ctypes.byref(params), ctypes.byref(size)
            )
            workspace = aligned(max(size.value, 1))
            params.workspace, params.workspace_bytes = workspace.data_ptr(), size.value
            for tensor in inputs:
                self._allow(tensor, False)
            for tensor in (*outputs, workspace):
                self._allow(tensor, True)
            binding.call(self.library, f"{function}_launch", ctypes.byref(params), None)
        except CovisError as error:
            reason: bytes = self.library.emulator_take_error()
            if not reason:
                raise
            raise StoppedError(reason.decode()) from error
        finally:
            self.library.emulator_forget_memory()

    def _allow(self, x: Tensor, writable: bool) -> None:
        if x.numel() > 0:
            last = sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
            self.library.emulator_allow(x.data_ptr(), (last + 1) * x.element_size(), int(writable))

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        level: Tensor,
        *,
        precision: attention.Precision = "full",
        kernel: attention.Kernel = "hopper",
        out: Tensor | None = None,
        **attributes: Any,
    ) -> Tensor:
        """Attention on host memory; `attributes` are those of the op.

        The output is poisoned with NaN first.
        """
        q, k, v = (attention.addressable(x) for x in (q, k, v))
        level = level.contiguous()
        if out is None:
            out = torch.full(q.shape, torch.nan, dtype=q.dtype)
        params = attention.pack(q, k, v, level, out, AttentionAttributes(**attributes))
        params.precision = attention.PRECISIONS[precision]
        params.kernel = attention.KERNELS[kernel]
        self.call("covis_attention", params, (q, k, v, level), (out,))
        return out

    def block_select(
        self,
        q: Tensor,
        k: Tensor,
        pair: Tensor,
        keep_ratio: Tensor,
        cdf: Tensor,
        **attributes: Any,
    ) -> Tensor:
        """BlockSelect on host memory; the level map is poisoned with 77 first."""
        chosen = SelectAttributes(**attributes)
        level = torch.full(select.level_shape(q, chosen), 77, dtype=torch.int8)
        inputs = (q, k, pair, keep_ratio, cdf)
        params = select.pack(*inputs, level, chosen)
        self.call("covis_select", params, inputs, (level,))
        return level

    def farthest_first(self, similarity: Tensor, given: Tensor, count: Tensor) -> Tensor:
        """FarthestFirst on host memory; the ranks are poisoned with 77777 first."""
        rank = torch.full(given.shape, 77777, dtype=torch.int32)
        params = farthest.pack(similarity, given, count, rank)
        self.call("covis_farthest", params, (similarity, given, count), (rank,))
        return rank

    def similarity(self, tokens: Tensor) -> Tensor:
        """Similarity of views on host memory, (M, M)."""
        views = tokens.shape[0]
        found = torch.full((views, views), torch.nan)
        params = saliency.pack_similarity(tokens, found)
        self.call("covis_similarity", params, (tokens,), (found,))
        return found

    def pair_levels(
        self, similarity: Tensor, anchor_rank: Tensor, rules: Mapping[str, Tensor]
    ) -> Tensor:
        """Levels of view pairs on host memory, (R, M, M), poisoned with 77 first."""
        saliency.check_pairs(similarity, anchor_rank, rules)
        level = torch.full((*rules["tau"].shape, *similarity.shape), 77, dtype=torch.int8)
        params = saliency.pack_pair_levels(similarity, anchor_rank, rules, level)
        self.call("covis_pair_levels", params, (similarity, anchor_rank, *rules.values()), (level,))
        return level


def aligned(count: int) -> Tensor:
    """uint8 (count,) of ones at a multiple of 256 bytes, as `cudaMalloc` gives them."""
    raw = torch.full((count + 256,), 0xFF, dtype=torch.uint8)
    skip = -raw.data_ptr() % 256
    return raw[skip : skip + count]


@cache
def the_emulator() -> Emulator:
    """The one of this process."""
    return Emulator()
