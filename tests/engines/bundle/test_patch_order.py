from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from covis.engines.bundle.patch_order import inverse, patch_order
from covis.engines.errors import CovisError
from tests.golden_data import golden, golden_json


def test_hilbert_is_the_curve_of_the_original() -> None:
    tensors = load_file(golden("sparse_a_hilbert.safetensors"))
    for columns, rows in golden_json("sparse_a_hilbert.json")["grids"]:
        name = f"W{columns}_H{rows}"
        order = patch_order("hilbert", rows, columns)
        np.testing.assert_array_equal(order, tensors[f"gather_{name}"])
        np.testing.assert_array_equal(inverse(order), tensors[f"gather_inv_{name}"])
        path = np.stack([order % columns, order // columns], 1)
        np.testing.assert_array_equal(path, tensors[f"path_xy_{name}"])


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 12, 17, 37])
@pytest.mark.parametrize("columns", [1, 2, 4, 7, 20, 37, 50])
@pytest.mark.parametrize("kind", ["raster", "hilbert"])
def test_every_patch_once(kind: str, rows: int, columns: int) -> None:
    order = patch_order(kind, rows, columns)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(rows * columns))
    np.testing.assert_array_equal(order[inverse(order)], np.arange(rows * columns))
    if kind == "hilbert":
        y, x = np.divmod(order, columns)
        steps = np.maximum(np.abs(np.diff(x)), np.abs(np.diff(y)))
        assert (steps == 1).all()  # neighbours in the sequence are neighbours in the image
        assert order[0] == 0


def test_a_run_along_the_curve_is_compact() -> None:
    order = patch_order("hilbert", 37, 37)
    y, x = np.divmod(order[: 37 * 37 // 64 * 64].reshape(-1, 64), 37)
    extent = np.maximum(np.ptp(x, axis=1), np.ptp(y, axis=1)) + 1
    assert extent.mean() < 14  # a raster run of 64 spans all 37 columns


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(("spiral", 2, 2), "order: is 'spiral'"), (("hilbert", 0, 2), "rows: is 0")],
)
def test_errors_name_the_argument(arguments: tuple[str, int, int], text: str) -> None:
    with pytest.raises(CovisError, match=text):
        patch_order(*arguments)
