"""What `pip install 'covis[...]'` brings: never both distributions of ONNX Runtime."""

from __future__ import annotations

import itertools
import re
import tomllib

from tests.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BOTH = {"onnxruntime", "onnxruntime-gpu"}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~ ;]", line, maxsplit=1)[0].lower() for line in requirements}


def test_no_extra_brings_both() -> None:
    base = names(PROJECT["project"]["dependencies"])
    extras = PROJECT["project"]["optional-dependencies"]
    assert not base & BOTH  # it would come along with the other one
    assert names(extras["cpu"]) & BOTH == {"onnxruntime"}
    assert names(extras["gpu"]) & BOTH == {"onnxruntime-gpu"}
    others = {name: names(needs) for name, needs in extras.items() if name not in ("cpu", "gpu")}
    assert not [name for name, needs in others.items() if needs & BOTH]
    assert not [name for name, needs in others.items() if "covis" in needs]


def test_the_two_are_declared_to_conflict() -> None:
    conflicts = PROJECT["tool"]["uv"]["conflicts"]
    assert any({entry["extra"] for entry in group} == {"cpu", "gpu"} for group in conflicts)


def test_make_installs_exactly_one() -> None:
    lines = re.findall(r"-e '\.\[([a-z,]+)\]'", (ROOT / "Makefile").read_text())
    assert len(lines) >= 2
    for first, second in itertools.product(lines, repeat=2):
        assert len({"cpu", "gpu"} & ({*first.split(","), *second.split(",")})) == 1
