"""Number of elements of a graph's tensors, for any number of views.

TensorRT counts the elements of a tensor in 31 bits. A graph with a tensor above that limit at some
number of views cannot be built for that number, however much memory there is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache

import onnx_ir as ir
import sympy  # type: ignore[import-untyped]

from covis.engines.limits import PAIR_MAPS
from covis.engines.op import MOST_ELEMENTS

PROBES = 64  # largest number of probe queries for which a graph is sized
MOST = 1_000_000  # views

_SYMBOL = re.compile(r"\b[su]\d+\b")  # a symbol as the tracer writes it
Lengths = Mapping[str, int]


def name_symbols(graph: ir.Graph, names: Mapping[str, str]) -> None:
    """Rewrite every shape of `graph` in other symbols (`1041*s48` -> `1041*M`)."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([_renamed(dim, names) for dim in value.shape])


def _renamed(dim: int | ir.SymbolicDim, names: Mapping[str, str]) -> int | str | None:
    if isinstance(dim, int):
        return dim
    if dim.value is None:
        return None
    return _SYMBOL.sub(lambda found: names.get(found[0], found[0]), str(dim.value))


@lru_cache(maxsize=4096)
def _expression(text: str) -> sympy.Expr:
    names = set(re.findall(r"[A-Za-z_]\w*", text))
    known = {
        n: sympy.Symbol(n, integer=True, positive=True) for n in names if not hasattr(sympy, n)
    }
    known.update({n: sympy.Symbol(n, integer=True, positive=True) for n in names & {"N", "S"}})
    return sympy.sympify(text, locals=known)


@lru_cache(maxsize=65536)
def _length(text: str, lengths: tuple[tuple[str, int], ...]) -> int | None:
    value = _expression(text).subs(
        {sympy.Symbol(n, integer=True, positive=True): v for n, v in lengths}
    )
    return int(value) if value.is_Integer else None


def dimension(dim: int | ir.SymbolicDim, lengths: Lengths) -> int | None:
    """Return a dimension as a number, or None if the graph does not fix it by these symbols."""
    if isinstance(dim, int):
        return dim
    return None if dim.value is None else _length(str(dim.value), tuple(sorted(lengths.items())))


def elements(value: ir.Value, lengths: Lengths) -> int | None:
    """Return the elements of `value` for these symbol lengths; None without a full shape."""
    if value.shape is None:
        return None
    sizes = [dimension(dim, lengths) for dim in value.shape]
    return None if None in sizes else math.prod(n for n in sizes if n is not None)


def too_large(graph: ir.Graph, lengths: Lengths, limit: int = MOST_ELEMENTS) -> list[ir.Value]:
    """Return the tensors with more than `limit` elements, in the order of the graph."""
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return [value for value in values if (elements(value, lengths) or 0) > limit]


def longest(graph: ir.Graph, symbol: str, limit: int = MOST_ELEMENTS) -> int:
    """Return the largest length of `symbol`, at most `MOST`, at which no tensor exceeds `limit`."""
    fits, fails = 0, MOST + 1
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if too_large(graph, {symbol: middle, "K": PROBES, "R": PAIR_MAPS.most}, limit):
            fails = middle
        else:
            fits = middle
    return fits
