"""The attribute classes, the torch schemas and `engines.op` agree on names, order and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from covis.engines.op import ATTENTION_ATTRIBUTES, SELECT_ATTRIBUTES
from covis.export.ops import TokenLayout
from covis.export.ops.attributes import AttentionAttributes, RegionAttributes, SelectAttributes

CLASSES: list[tuple[type[RegionAttributes], str, Mapping[str, Any]]] = [
    (AttentionAttributes, "block_sparse_attention", ATTENTION_ATTRIBUTES),
    (SelectAttributes, "block_select", SELECT_ATTRIBUTES),
]


@pytest.mark.parametrize(("kind", "op", "attributes"), CLASSES)
def test_defaults_are_those_of_the_op(
    kind: type[RegionAttributes], op: str, attributes: Mapping[str, Any]
) -> None:
    assert list(kind().flat().items()) == list(attributes.items())
    arguments = getattr(torch.ops.covis, op).default._schema.arguments
    tail = arguments[-len(attributes) :]
    assert [(a.name, a.default_value) for a in tail] == list(attributes.items())


def test_flat_values_come_back() -> None:
    attention = AttentionAttributes(TokenLayout(9, 2, 1, 4), 6, 3, 0.5)
    assert AttentionAttributes.from_flat(*attention.flat().values()) == attention
    select = SelectAttributes(TokenLayout(9, 2, 1, 4), 6, 3, "max")
    assert SelectAttributes.from_flat(*select.flat().values()) == select


def test_trailing_defaults_may_be_missing() -> None:
    assert AttentionAttributes.from_flat(7, 2) == AttentionAttributes(TokenLayout(7, 2))
    assert SelectAttributes.from_flat() == SelectAttributes()
