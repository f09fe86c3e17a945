"""Graphs and weights that these tests share are removed at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def graphs_are_removed() -> Iterator[None]:
    yield
    from tests.tensorrt.graphs import forget

    forget()
