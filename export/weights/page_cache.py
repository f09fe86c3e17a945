"""Release the memory pages of memory-mapped weights."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

_MADV_DONTNEED = 4
_SMALLEST = 1 << 20  # bytes; 1,043 of the 1,403 tensors of VGGT-1B are smaller, 7.4 MiB together


def release_pages(tensors: Iterable[Tensor]) -> None:
    """Drop the resident pages of tensors mapped from a file; the next access loads them again.

    Otherwise one pass over 5 GB of weights, to check or to run them, keeps 5 GB resident. Other
    tensors are left alone, and so are small ones, because the list of mappings is long, and
    everything on systems without /proc.
    """
    large = [tensor for tensor in tensors if tensor.nbytes >= _SMALLEST]
    mapped = _file_mappings() if large else []
    if not mapped:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    page = mmap.PAGESIZE
    for tensor in large:
        first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        if any(start <= first and last <= stop for start, stop in mapped):
            # Pages at both ends may contain bytes of a neighbour; they are loaded again unchanged.
            start, stop = first // page * page, -(-last // page) * page
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), _MADV_DONTNEED)


def _file_mappings() -> list[tuple[int, int]]:
    """Return the address ranges of mapped files.

    The name says nothing: a file in Hugging Face's cache is named by its digest. Devices are left
    out, because what is dropped from shared memory may be its only copy.
    """
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return []
    # Address range, rights, offset, device, inode, and the path of a mapping that has a file.
    fields = [line.split(maxsplit=5) for line in lines]
    files = [
        f[0].split("-")
        for f in fields
        if len(f) == 6 and f[5].startswith("/") and not f[5].startswith("/dev/")
    ]
    return [(int(first, 16), int(last, 16)) for first, last in files]
