"""Every regime of the global layers: torch, the graphs' function bodies and the kernel agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from covis.engines.bundle.names import AGGREGATOR, AGGREGATOR_POOLED, PAIR_LEVELS, SIMILARITY
from covis.engines.options import Sparsity
from covis.engines.pair_rules import pair_rules
from covis.engines.schedule import is_pooled
from covis.export.models import MultiViewModel
from tests.export.models.parity import recorded_model
from tests.export.onnx_chain import Chain, Values, kernel_or_function
from tests.golden_data import golden, golden_json

CONFIGS = ["vggt_a1", "pi3_a1", "mapanything_a1"]
HEIGHT, WIDTH = 42, 56
VIEWS = 12  # of 12 patches: 2 x 3 blocks of the pooled selector
REGIMES = {
    "dense": Sparsity("dense"),
    "self": Sparsity("anchors", schedule="all:self"),
    "saliency": Sparsity("saliency", layers="all", min_neighbours=1),
    "anchors": Sparsity("anchors", anchors=4),
    "published": Sparsity("anchors", anchors=4, layers="all", own_frame=False),
    "uniform": Sparsity("anchors", anchors=3, layers="all", anchor_choice="uniform"),
    "pooled": Sparsity("pooled", layers="all", keep_ratio=0.5),
    "mixed": Sparsity("anchors", schedule="0:self, rest:anchors=6+pooled=0.5"),
}
CLOSE = 1e-4  # of the largest value: what other orders of summation cost in these layers


@pytest.fixture(scope="module", params=CONFIGS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Encoder, saliency and aggregators of a tiny model as graphs, and its results in torch."""
    config = request.param
    model = recorded_model(config.partition("_")[0], config)
    weights = golden(golden_json(f"{config}.json")["weights"])
    heads = tuple(stage.name for stage in model.head_stages(HEIGHT, WIDTH))
    folder = tmp_path_factory.mktemp("regimes")
    chain = Chain(folder, model, weights, HEIGHT, WIDTH, heads, saliency=True)
    return chain, model, {}


def photos() -> NDArray[np.float32]:
    """Return smooth pictures, on which networks behave as on photos."""
    coarse = torch.rand(VIEWS, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH)).numpy()


def inputs(model: MultiViewModel, sparsity: Sparsity) -> Values:
    rules = pair_rules(sparsity, model.global_layers, VIEWS, model.has_reference)
    patches = np.arange(HEIGHT * WIDTH // 14**2)
    return {**rules.inputs(), "probe": np.arange(5) * 7, "patch_order": patches}


def in_torch(chain: Chain, controls: Mapping[str, Any], without: str) -> Values:
    """Return every output of every stage but `without`, from the torch modules."""
    values = {name: torch.from_numpy(np.asarray(value)) for name, value in controls.items()}
    values["images"] = torch.from_numpy(photos())
    for stage in chain.modules:
        if stage.name == without:
            continue
        with torch.inference_mode():
            outputs = stage.module(*(values[port.name] for port in stage.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        values |= {p.name: v for p, v in zip(stage.outputs, outputs, strict=True)}
    return {name: value.numpy() for name, value in values.items()}


def clear_threshold(similarity: NDArray[np.float32]) -> float:
    """Return a threshold in the widest gap of the middle similarities: no rounding crosses it."""
    values = np.sort(similarity[~np.eye(len(similarity), dtype=bool)])
    middle = values[len(values) // 4 : -len(values) // 4]
    widest = int(np.diff(middle).argmax())
    return round(float(middle[widest : widest + 2].mean()), 9)


@pytest.mark.parametrize("regime", REGIMES)
@kernel_or_function
def test_every_runtime_computes_the_same(exported: Any, regime: str, kernel: bool) -> None:
    chain, model, known = exported
    sparsity = REGIMES[regime]
    if "dense" not in known:
        known["dense"] = in_torch(chain, inputs(model, REGIMES["dense"]), AGGREGATOR_POOLED)
    if sparsity.selector == "saliency":
        sparsity = replace(sparsity, tau=clear_threshold(known["dense"][SIMILARITY]))
    unused = AGGREGATOR if is_pooled(sparsity, model.global_layers) else AGGREGATOR_POOLED
    controls = inputs(model, sparsity)
    if regime not in known:
        known[regime] = in_torch(chain, controls, unused)
    expected = known[regime]
    found = chain.run(photos(), controls, kernel, without=unused)
    assert expected.keys() == found.keys()
    np.testing.assert_array_equal(found[PAIR_LEVELS], expected[PAIR_LEVELS])
    for name in aggregated(chain):
        difference = np.abs(found[name] - expected[name]).max()
        assert difference <= CLOSE * np.abs(expected[name]).max(), name
    last = aggregated(chain)[-1]
    apart = np.abs(expected[last] - known["dense"][last]).max() / np.abs(expected[last]).max()
    assert (apart > 10 * CLOSE) == (regime != "dense"), "a regime that changes nothing"


def aggregated(chain: Chain) -> list[str]:
    """Return the names of the tokens that the heads read."""
    (stage,) = (s for s in chain.stages if s.name == AGGREGATOR)
    return [t.name for t in stage.outputs if not t.name.startswith("kept_")]
