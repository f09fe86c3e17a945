"""The emulator against answers known by hand: small kernels of selftest/, without the project.

Where the bytes of a matrix lie is told here by the figures of the PTX ISA (wgmma, shared memory
layouts; tensor maps, swizzle modes), in other words than the emulator uses. All of it by default.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.emulator.emulator import load_emulator
from tests.emulator.judge import SUMMARY
from tests.vectors.case import Array

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
SWIZZLE_BITS = {16: 0, 128: 1, 64: 2, 32: 3}  # of a descriptor, by the bytes of a swizzled row
HALF, HALF_TRANSPOSED, LOW, LOW_REGISTERS, HALF_REGISTERS = range(5)  # selftest/wgmma.cu, Kind


class Wgmma(ctypes.Structure):
    """The arguments of `multiply` in selftest/wgmma.cu, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("a", "b", "a_at", "b_at")),
        *((name, ctypes.c_int32) for name in ("a_bytes", "b_bytes")),
        *((name, ctypes.c_uint32) for name in ("a_start", "b_start")),
        *((name, ctypes.c_uint64) for name in ("a_desc", "b_desc")),
        ("d", ctypes.c_void_p),
    )


@cache
def library() -> ctypes.CDLL:
    """The self-test's kernels; skips where they are not built."""
    return load_emulator("libcovis_selftest.so", "covis_selftest_ptx")


def pointer(x: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.ctypes.data)


def launch(function: str, *arguments: Any, touches: tuple[Array, ...]) -> None:
    """Launch, with these arrays as the only memory; nothing may be found."""
    lib = library()
    for x in touches:
        lib.emulator_allow(x.ctypes.data, x.nbytes, 1)
    status = getattr(lib, f"selftest_{function}")(*arguments)
    lib.emulator_forget_memory()
    assert status == 0, lib.emulator_take_error().decode()
    assert lib.emulator_take_findings() == b""
    SUMMARY.other["self-test"] += 1


def descriptor(leading: int, stride: int, width: int) -> int:
    """A matrix descriptor without its address: byte offsets, bytes of a swizzled row."""
    return (leading >> 4) << 16 | (stride >> 4) << 32 | SWIZZLE_BITS[width] << 62


def k_major(width: int, leading: int, stride: int, skip: int = 0) -> Array:
    """(64, 32): where byte k of row r lies. K runs along the rows, which come in bricks of 8.

    In a swizzled brick the 16-byte chunks of a row are exchanged by the row's number: of 8 rows of
    128 bytes each by its own, of 64 bytes by pairs of rows, of 32 by fours.
    """
    r, k = np.mgrid[:64, :32]
    place: Array = r // 8 * stride + k // 16 * leading + r % 8 * 16 + k % 16
    if width > 16:
        chunk = (k + skip) // 16 ^ (r % 8 // (128 // width))
        place = r // 8 * stride + r % 8 * width + chunk * 16 + k % 16
    return place


def n_major(width: int, leading: int, stride: int) -> Array:
    """(64, 32): where byte b of column n lies, for 16 steps of K of two bytes; N is contiguous."""
    n, k, byte = np.meshgrid(np.arange(64), np.arange(16), np.arange(2), indexing="ij")
    at = 2 * n
    if width == 16:  # bricks of 8 (N) x 8 (K)
        place = at // 16 * stride + k // 8 * leading + k % 8 * 16 + at % 16
    else:
        chunk = at % width // 16 ^ (k % 8 // (128 // width))
        place = at // width * leading + k // 8 * stride + k % 8 * width + chunk * 16 + at % 16
    return (place + byte).reshape(64, 32)


def check_product(
    kind: int, places: tuple[Array, Array], descriptors: tuple[int, int], start: int = 0
) -> None:
    """(64, K) times (64, K) transposed, bytes at `places`, against numpy."""
    rng = np.random.default_rng(0)
    low = kind in (LOW, LOW_REGISTERS)
    shape, dtype = ((64, 32), E4M3) if low else ((64, 16), np.dtype(np.float16))
    a, b = ((rng.integers(-8, 9, shape) / 4).astype(dtype) for _ in range(2))
    d = np.full((64, 64), np.nan, np.float32)
    a_bytes, b_bytes = (x.view(np.uint8) for x in (a, b))
    a_at, b_at = (np.ascontiguousarray(place, np.int32) for place in places)
    arrays = (a_bytes, b_bytes, a_at, b_at)
    w = Wgmma(
        *(x.ctypes.data for x in arrays),
        a_bytes.size,
        b_bytes.size,
        start,
        start,
        *descriptors,
        d.ctypes.data,
    )
    launch("wgmma", kind, ctypes.byref(w), touches=(*arrays, d))
    np.testing.assert_array_equal(d, a.astype(np.float32) @ b.astype(np.float32).T)


@pytest.mark.parametrize("kind", [HALF, LOW])
@pytest.mark.parametrize(
    ("width", "skip"), [(w, s) for w in (16, 32, 64, 128) for s in range(0, w if w > 16 else 1, 32)]
)
def test_wgmma_k_major(kind: int, width: int, skip: int) -> None:
    leading, stride = (128, 256) if width == 16 else (16, 8 * width)
    place = k_major(width, leading, stride, skip)
    wanted = descriptor(leading, stride, width)
    check_product(kind, (place, place), (wanted, wanted), skip)


@pytest.mark.parametrize("kind", [LOW_REGISTERS, HALF_REGISTERS])
@pytest.mark.parametrize("width", [16, 64])
def test_wgmma_with_a_in_registers(kind: int, width: int) -> None:
    leading, stride = (128, 256) if width == 16 else (16, 8 * width)
    place = k_major(width, leading, stride)
    check_product(kind, (place, place), (0, descriptor(leading, stride, width)))


@pytest.mark.parametrize("width", [16, 32, 64, 128])
def test_wgmma_b_transposed(width: int) -> None:
    leading, stride = (1024, 128) if width == 16 else (16 * width, 8 * width)
    places = (k_major(16, 128, 256), n_major(width, leading, stride))
    check_product(
        HALF_TRANSPOSED, places, (descriptor(128, 256, 16), descriptor(leading, stride, width))
    )


def encode(data: Array, box: tuple[int, ...], swizzle: int) -> tuple[Array, int]:
    """A tensor map of `data` (its memory must outlive it) and its address, a multiple of 64."""
    room = np.zeros(192, np.uint8)
    place = -(-room.ctypes.data // 64) * 64
    status = library().selftest_encode(
        ctypes.c_void_p(place),
        6 if data.dtype == np.float16 else 0,  # CU_TENSOR_MAP_DATA_TYPE_*
        pointer(data),
        (ctypes.c_uint64 * 5)(*data.shape[::-1]),
        (ctypes.c_uint64 * 4)(*data.strides[-2::-1]),
        (ctypes.c_uint32 * 5)(*box),
        swizzle,
    )
    assert status == 0, library().emulator_take_error().decode()
    return room, place


@pytest.mark.parametrize(
    ("dtype", "swizzle", "width"),
    [(np.float16, 3, 128), (np.uint8, 3, 128), (np.uint8, 2, 64), (np.uint8, 0, 64)],
)
@pytest.mark.parametrize(
    "corner", [(0, 0, 0, 0, 0), (0, 5, 1, 1, 0), (1, 8, 2, 1, 1), (0, -3, 0, 0, 1), (0, 0, 3, 0, 0)]
)
def test_box(dtype: Any, swizzle: int, width: int, corner: tuple[int, ...]) -> None:
    """A box of 2 x 8 rows over the edges of a tensor: to shared memory, as it lies there, and back.

    `corner` counts 16-byte chunks in its first place, elements in the others.
    """
    element = np.dtype(dtype).itemsize
    inner, chunk = width // element, 16 // element
    rng = np.random.default_rng(1)
    data = rng.integers(1, 200, (2, 2, 3, 11, inner + chunk)).astype(dtype)
    back, seen = np.zeros_like(data), np.zeros(width * 16, np.uint8)
    at = (corner[0] * chunk, *corner[1:])
    maps = [encode(x, (inner, 8, 2, 1, 1), swizzle) for x in (data, back)]
    addresses = [ctypes.c_void_p(address) for _, address in maps]
    corner_array = (ctypes.c_int * 5)(*at)
    launch("copy", *addresses, seen.size, corner_array, pointer(seen), touches=(data, back, seen))
    box, written = np.zeros((2, 8, inner), dtype), np.zeros_like(data)
    for f, r, x in np.ndindex(*box.shape):
        place = (at[4], at[3], at[2] + f, at[1] + r, at[0] + x)
        if all(0 <= p < n for p, n in zip(place, data.shape, strict=True)):
            box[f, r, x] = written[place] = data[place]
    lies = np.zeros((16, width // 16, 16), np.uint8)
    chunks = box.reshape(16, inner).view(np.uint8).reshape(lies.shape)
    for row, c in np.ndindex(*lies.shape[:2]):
        # Rows that share an exchange: two of 64 bytes, one of 128.
        exchange = row % 8 // (128 // width) if swizzle else 0
        lies[row, c ^ exchange] = chunks[row, c]
    np.testing.assert_array_equal(seen, lies.reshape(-1))
    np.testing.assert_array_equal(back, written)


def test_matrix_loads_and_mma() -> None:
    rng = np.random.default_rng(2)
    a = (rng.integers(-8, 9, (16, 16)) / 4).astype(np.float16)
    b = (rng.integers(-8, 9, (16, 8)) / 4).astype(np.float16)
    d = np.full((16, 8), np.nan, np.float32)
    launch("mma", *map(pointer, (a, b, d)), touches=(a, b, d))
    np.testing.assert_array_equal(d, a.astype(np.float32) @ b.astype(np.float32))


def test_conversions() -> None:
    """Rounding to the nearest even, subnormal results, saturation, NaN: as ml_dtypes rounds."""
    rng = np.random.default_rng(3)
    edges = [0.0, -0.0, 448, 464, 465, 1e9, -1e9, 65504, 65519, 65520, 2.0**-24, 2.0**-25]
    edges += [2.0**-10, 2.0**-11, 3 * 2.0**-11, np.inf, -np.inf, np.nan]
    spread = rng.standard_normal(2000) * 10.0 ** rng.integers(-9, 6, 2000)
    steps = [np.arange(-600, 600) / 8, np.arange(200) * 2.0**-11]
    x = np.concatenate([spread, *steps, edges]).astype(np.float32)
    half, bfloat, low = (np.zeros(len(x), t) for t in (np.uint16, np.uint16, np.uint8))
    launch(
        "convert",
        pointer(x),
        len(x),
        *map(pointer, (half, bfloat, low)),
        touches=(x, half, bfloat, low),
    )
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = [x.astype(np.float16), x.astype(ml_dtypes.bfloat16)]
        wanted.append(np.where(np.isnan(x), x, np.clip(x, -448, 448)).astype(E4M3))
    for got, want in zip((half, bfloat, low), wanted, strict=True):
        np.testing.assert_array_equal(
            got.view(want.dtype).astype(np.float32), want.astype(np.float32)
        )
