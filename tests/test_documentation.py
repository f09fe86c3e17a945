"""What the documentation says: links lead somewhere, commands parse, Python names exist."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from covis import cli
from tests.documentation import (
    Block,
    anchors,
    blocks,
    inline_code,
    links,
    pages,
    shell_lines,
    target,
)
from tests.places import DEMO, ROOT

SHELL = ("sh", "shell", "bash", "")
BLOCKS = [block for name in pages() for block in blocks(name)]
SHELL_BLOCKS = [b for b in BLOCKS if b.language in SHELL]
PYTHON_BLOCKS = [b for b in BLOCKS if b.language == "python"]
COMMANDS = [
    (block, line)
    for block in SHELL_BLOCKS
    for line in shell_lines(block)
    if re.match(r"covis [a-z]", line) and "..." not in line
]
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
FOLDERS = "benchmarks|cmake|covis|docs|engines|evaluation|examples|export|plugins|runtime|tests"
# Pages that also name what is no longer there.
HISTORY = {"CHANGELOG.md", *(name for name in pages() if name.startswith("docs/decisions/"))}
_PATH = re.compile(
    rf"(?<![\w./-])((?:{FOLDERS})/[a-z0-9_./-]+\.(?:py|md|sh|txt|h|cc|cu|cuh|json))\b"
)


def accept(options: object) -> None:
    """Take the place of a command's function: the options have been parsed."""


def place(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest.mark.parametrize("name", pages())
def test_links(name: str) -> None:
    for path, anchor in links(name):
        found = target(name, path)
        assert found.exists(), f"{name}: {path}"
        if anchor:
            assert found.suffix == ".md", f"{name}: {path}#{anchor}"
            assert anchor in anchors(found), f"{name}: {path}#{anchor}"


def test_there_are_commands_to_test() -> None:
    assert len(COMMANDS) > 50 and len(PYTHON_BLOCKS) > 15


@pytest.mark.parametrize(("block", "line"), COMMANDS, ids=[place(b) for b, _ in COMMANDS])
def test_commands_parse(
    block: Block, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in shlex.split(line, comments=True) if word != "--help"][1:]
    if "|" in words:
        words = words[: words.index("|")]
    entry = cli.COMMANDS[words[0]]
    replaced = entry._replace(function=f"{__name__}:accept")
    monkeypatch.setitem(cli.COMMANDS, words[0], replaced)
    assert cli.run_command(words) == 0, f"{place(block)}: {line}\n{capsys.readouterr().err}"


@cache
def help_of(command: str) -> str:
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.run_command([command, "--help"]) == 0
    return out.getvalue()


@pytest.mark.parametrize("name", [n for n in pages() if n not in HISTORY])
def test_inline_commands_and_their_options_exist(name: str) -> None:
    for code in inline_code(name):
        match = re.match(r"covis ([a-z][a-z-]*)\b", code)
        if match:
            assert match[1] in cli.COMMANDS, f"{name}: {code}"
            for option in re.findall(r"(?<!\S)--[A-Za-z][\w-]*", code):
                known = option == "--help" or re.search(rf"{option}\b", help_of(match[1]))
                assert known, f"{name}: {code}: {option}"
        for wanted in re.findall(r"^make ([a-z]+)", code):
            assert wanted in TARGETS, f"{name}: {code}"


@pytest.mark.parametrize("name", [n for n in pages() if n not in HISTORY])
def test_files_that_are_named_exist(name: str) -> None:
    text = "\n".join([*inline_code(name), *(b.text for b in blocks(name) if b.language in SHELL)])
    for path in _PATH.findall(text):
        places = (ROOT / path, (ROOT / name).parent / path)
        assert any(place.exists() for place in places), f"{name}: {path}"


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=place)
def test_make_targets_exist(block: Block) -> None:
    for line in shell_lines(block):
        match = re.match(r"make ([a-z]+)", line)
        assert match is None or match[1] in TARGETS, f"{place(block)}: {line}"


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=place)
def test_python_compiles_and_its_covis_names_exist(block: Block) -> None:
    tree = ast.parse(block.text, place(block))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "covis":
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{place(block)}: {node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "covis":
                    importlib.import_module(alias.name)
        elif isinstance(node, ast.Attribute):
            _resolve(ast.unparse(node), place(block))


def _resolve(name: str, where: str) -> None:
    """`covis.a.b` must exist, as an attribute or a module."""
    if not re.fullmatch(r"covis(\.\w+)+", name):
        return
    value: object = importlib.import_module("covis")
    parts = name.split(".")
    for i, part in enumerate(parts[1:], 2):
        if not hasattr(value, part):
            value = importlib.import_module(".".join(parts[:i]))
        else:
            value = getattr(value, part)
        if not isinstance(value, type(sys)):
            return  # attributes of values are not looked up
    assert value is not None, f"{where}: {name}"


@pytest.fixture(scope="module")
def folder_of_a_reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the snippets name: photos, the demo's photos, bundles."""
    from covis.synthetic import demo_scene, write_photos

    folder = tmp_path_factory.mktemp("reader")
    scene = demo_scene(5, 112, 112, family="studio")
    for photos in ("photos", "monday", "tuesday", "demo/photos"):
        write_photos(folder / photos, scene)
    for bundle in ("vggt.bundle", "fp16.bundle"):
        (folder / bundle).symlink_to(DEMO)
    return folder


@pytest.mark.parametrize("block", [b for b in PYTHON_BLOCKS if b.run], ids=place)
def test_python_that_is_marked_runs(
    block: Block, folder_of_a_reader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder_of_a_reader)
    exec(compile(block.text, place(block), "exec"), {"__name__": "snippet"})


RUN_PAGES = sorted({block.page for block in SHELL_BLOCKS if block.run})


@pytest.mark.parametrize("page", RUN_PAGES)
def test_shell_that_is_marked_runs(page: str, folder_of_a_reader: Path) -> None:
    """The marked blocks of a page form one script: a reader types them into one shell."""
    script = "set -eu\n" + "".join(b.text for b in SHELL_BLOCKS if b.page == page and b.run)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder_of_a_reader, check=False, capture_output=True,
        text=True, env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_notebooks_hold_no_outputs() -> None:
    found = [name for name in pages() if name.endswith(".ipynb")]
    assert found
    for name in found:
        for cell in json.loads((ROOT / name).read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs") and not cell.get("execution_count"), name


@pytest.mark.parametrize("name", ["reconstruct_folder", "compare_selectors"])
def test_examples_run(
    name: str,
    folder_of_a_reader: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import runpy

    script = ROOT / "examples" / f"{name}.py"
    arguments = [DEMO, folder_of_a_reader / "photos"]
    if name == "reconstruct_folder":
        arguments.append(tmp_path / "scene")
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out
