"""JSON files that a user names: one line for every fault, and no endless reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from covis.engines.errors import CovisError, ExitCode
from covis.engines.system.json_file import read_json


def refusal(path: Path) -> str:
    with pytest.raises(CovisError) as caught:
        read_json(path, "see there")
    assert caught.value.code == ExitCode.USER and "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_json_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    assert "file.json: cannot be read (No such file" in refusal(path)
    path.write_bytes(b"\xff{")
    assert "file.json: is not JSON" in refusal(path) and refusal(path).endswith("; see there")
    path.write_text("[" * 200_000)
    assert "is not JSON" in refusal(path)
    os.truncate(path, (64 << 20) + 1)
    assert "is larger than 64 MiB" in refusal(path)
    path.write_text('{"a": [1]}')
    assert read_json(path, "") == {"a": [1]}


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_could_be_read_for_ever(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / kind
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    assert "is no regular file" in refusal(path)
