"""The cache of measured kernel times: merged, and not read if it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from covis.engines.errors import CovisError
from covis.engines.tensorrt.build.timing_cache import TimingCache
from tests.engines.mini_bundle import flip


def union(known: bytes, measured: bytes) -> bytes:
    return b" ".join(sorted({*known.split(), *measured.split()}))


def test_merged(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path / "timing.cache")
    assert cache.read() == b""
    cache.add(b"", union)
    assert not cache.path.exists()
    cache.add(b"b", union)
    # Another build began when the file was empty, and ends later.
    TimingCache(cache.path).add(b"a", union)
    assert cache.read() == b"a b"
    cache.add(b"a", union)
    assert cache.path.read_bytes() == b"a b"  # plain, as trtexec reads it


def test_damaged_file_is_not_read(tmp_path: Path) -> None:
    messages: list[str] = []
    cache = TimingCache(tmp_path / "timing.cache", messages.append)
    cache.add(b"times", union)
    flip(cache.path, 2)
    assert cache.read() == b""
    assert "is damaged (sha256 differs); kernels are measured anew" in messages[0]
    cache.add(b"new", union)
    assert cache.read() == b"new" and len(messages) == 2
    cache.path.with_name("timing.cache.sha256").write_bytes(b"\xff")
    assert cache.read() == b"" and "cannot be read" in messages[2]


def test_file_of_trtexec_is_read(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path / "timing.cache")
    cache.path.write_bytes(b"theirs")
    assert cache.read() == b"theirs"
    cache.add(b"ours", union)
    assert cache.read() == b"ours theirs"


def test_merge_that_fails_keeps_the_file(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path / "timing.cache")
    cache.add(b"times", union)

    def failing(known: bytes, measured: bytes) -> bytes:
        raise RuntimeError("TensorRT refuses")

    with pytest.raises(RuntimeError):
        cache.add(b"new", failing)
    assert cache.read() == b"times"
    with pytest.raises(CovisError, match="cannot be written"):
        TimingCache(tmp_path / "timing.cache" / "below").add(b"x", union)
