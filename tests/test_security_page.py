"""The page on security: each promise names a test that exists, and each limit is listed."""

from __future__ import annotations

import ast
import re

import pytest

from covis.engines.limits import TABLE
from tests.places import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
TESTS = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)


def promises() -> list[str]:
    """Return the rows of the tables between the two headings."""
    part = PAGE.split("## What is promised")[1].split("## What is not promised")[0]
    rows = [line for line in part.splitlines() if line.startswith("| ")]
    return [row for row in rows if not row.startswith("| promise ")]


@pytest.mark.parametrize("promise", promises())
def test_a_promise_names_its_test(promise: str) -> None:
    assert re.search(r"\| `tests/[\w/]+\.py(::\w+)?`", promise)


@pytest.mark.parametrize(("path", "name"), TESTS)
def test_the_test_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert name in functions if name else any(f.startswith("test_") for f in functions)


def test_every_limit_is_listed() -> None:
    rows = PAGE.split("## Limits")[1].split("|---|---|---|\n")[1].splitlines()
    assert rows == [f"| {limit.what} | {limit} | {limit.why} |" for limit in TABLE]
