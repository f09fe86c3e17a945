"""Sparse attention in modules with the structure of the published packages."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from covis.engines.bundle.patch_order import patch_order
from covis.engines.errors import CovisError
from covis.engines.options import Sparsity
from covis.engines.pair_rules import pair_rules
from covis.engines.schedule import resolve
from covis.export import accelerate, restore
from covis.export.acceleration.structure import recognise
from covis.export.models import MultiViewModel, load_model
from covis.export.models.mapanything import MapAnything
from covis.export.selection.block_maps import PairSelection, PooledSelection, Selection
from covis.export.selection.pair_rules import PairRules
from covis.export.selection.saliency import Saliency
from covis.export.selection.similarity import descriptor_similarity
from tests.export.acceleration.upstream_like import LikePi3X, like_published
from tests.export.models.parity import recorded_cases
from tests.golden_data import golden, golden_json, tolerance

MODELS = ["vggt_a1", "pi3_a1", "mapanything_a1", "mapanything_a2"]
RECORDED = {
    "vggt": "inter.aggregated_last",
    "pi3": "inter.head_input",
    "mapanything": "inter.final_tokens_normed",
}
HEIGHT, WIDTH = 56, 84
Pair = tuple[MultiViewModel, nn.Module]


@pytest.fixture(params=MODELS)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Return our model, and the published structure with the same weights."""
    return make_pair(request.param)


@lru_cache
def our_model(config: str) -> MultiViewModel:
    record = golden_json(f"{config}.json")
    return load_model(config.rpartition("_")[0], record["config"], golden(record["weights"]))


def make_pair(config: str) -> Pair:
    ours = our_model(config)
    return ours, like_published(ours)  # type: ignore[arg-type]


def scene(batch: int = 1, views: int = 8, seed: int = 0) -> Tensor:
    """Return images (B, M, 3, H, W) of two kinds, so that only some views are similar."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.rand(batch, 2, 3, HEIGHT, WIDTH, generator=generator)
    kinds[:, 1] *= torch.linspace(0, 1, WIDTH)
    noise = torch.rand(batch, views, 3, HEIGHT, WIDTH, generator=generator)
    which = torch.randint(2, (batch, views), generator=generator)
    picked = torch.stack([kinds[b][which[b]] for b in range(batch)])
    return 0.7 * picked + 0.3 * noise


def threshold(handle: Any) -> float:
    """Return a tau that separates the views of the last call, away from any similarity."""
    found = handle.similarity.flatten().sort().values
    middle = found.numel() // 3
    gaps = found[middle : 2 * middle].diff()
    at = middle + int(gaps.argmax())
    return float((found[at] + found[at + 1]) / 2)


def our_selection(ours: MultiViewModel, tokens: Tensor, sparsity: Sparsity) -> Selection:
    """Return the selection that the bundle's runtime passes to the aggregator for one scene."""
    views = len(tokens)
    rules = pair_rules(resolve(sparsity, views), ours.global_layers, views, ours.has_reference)
    given = {name: torch.as_tensor(x) for name, x in rules.inputs().items()}
    numbers = [given[name] for name in PairRules._fields]
    grid = HEIGHT // 14, WIDTH // 14
    _, _, levels = Saliency(*grid)(tokens, given["anchor_order"], *numbers)
    maps = levels.to(torch.int8), given["layer_map"]
    if not any(regime.pooled for regime in rules.regimes):
        return PairSelection(*maps, tokens.shape[1])
    blocks = given["keep_ratio"], given["cdf"]
    return PooledSelection(*maps, *blocks, ours.layout(HEIGHT, WIDTH))


def ours_sparse(ours: MultiViewModel, images: Tensor, sparsity: Sparsity) -> Tensor:
    """Return our aggregated tokens, scene by scene, in the form of the published structure."""
    results = []
    for views in images:
        encoded = ours.encode(views)
        selection = our_selection(ours, encoded[0], sparsity)
        order = torch.from_numpy(patch_order(sparsity.order, HEIGHT // 14, WIDTH // 14))
        one = tuple(x.unsqueeze(0) for x in encoded)
        outputs = ours.aggregate(one, HEIGHT, WIDTH, selection, order)
        last = outputs[3] if ours.name == "mapanything" else torch.cat(outputs[-2:], dim=-1)
        results.append(last)
    return torch.cat(results)


def comparable(ours: MultiViewModel, published: Tensor) -> Tensor:
    """Return the part of the published structure's output that `ours_sparse` computes."""
    if ours.name == "vggt":
        return published[:, :, 5:]  # the last tap: patch tokens
    if isinstance(ours, MapAnything):
        patches = HEIGHT // 14 * (WIDTH // 14)
        frames = published[:, :-1].unflatten(1, (-1, patches + ours.config.v11))
        return frames[:, :, :patches]
    return published


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


def unlike(a: Tensor, b: Tensor) -> None:
    """Return True if the difference is far above rounding, so the skipped blocks mattered."""
    assert (a - b).abs().max() > 1e-3 * b.abs().max()


@pytest.mark.parametrize("config", MODELS)
def test_the_stand_ins_compute_what_the_originals_did(config: str) -> None:
    ours, model = make_pair(config)
    for case, tensors in recorded_cases(config):
        name = RECORDED[ours.name]
        with torch.inference_mode():
            got = model(tensors["images"]).reshape(tensors[name].shape)
        allowed = tolerance(
            case["max_abs_diff_fp32_vs_fp64"][name], tensors[name].abs().max().item()
        )
        assert (got - tensors[name]).abs().max().item() <= allowed


SELECTIONS: dict[str, dict[str, Any]] = {
    "saliency": {"selector": "saliency", "min_neighbours": 0},
    "one layer": {
        "selector": "saliency",
        "layers": "1",
        "min_neighbours": 2,
        "reference": False,
    },
    "pooled": {"selector": "pooled", "keep_ratio": 0.4},
    "pooled hilbert": {"selector": "pooled", "keep_ratio": 0.4, "order": "hilbert"},
    "both": {"selector": "both", "keep_ratio": 0.5, "cdf": 0.3},
    "light": {"selector": "light", "anchors": 3, "layers": "0-1"},
    "anchors": {"selector": "anchors", "anchors": 2, "min_neighbours": 1},
    "published rule": {"selector": "anchors", "anchors": 3, "own_frame": False, "layers": "all"},
    "uniform": {"selector": "anchors", "anchors": 3, "anchor_choice": "uniform", "layers": "all"},
    "random": {"selector": "anchors", "anchors": 2, "anchor_choice": "random", "anchor_seed": 3},
    "similar": {"selector": "anchors", "anchors": 2, "anchor_choice": "similar", "layers": "0"},
    "self": {"schedule": "all:self"},
    "mixed, pooled": {
        "schedule": "0:anchors=2+pooled=0.5, rest:saliency",
        "min_neighbours": 1,
        "order": "hilbert",
    },
    "mixed": {"schedule": "0:self, 1:anchors=2, rest:dense", "min_neighbours": 1},
    "auto, light": {"selector": "auto", "dense_up_to": 3, "light_up_to": 8, "anchors": 1},
    "auto, anchors": {"selector": "auto", "dense_up_to": 3, "light_up_to": 7, "anchors": 1},
}


@pytest.mark.parametrize("name", SELECTIONS)
@torch.inference_mode()
def test_sparse_results_are_those_of_our_own_model(pair: Pair, name: str) -> None:
    ours, model = pair
    images = scene(batch=2)
    dense = model(images)
    handle = accelerate(model, selector="saliency")
    model(images)
    options = {"min_neighbours": 0, **SELECTIONS[name]}
    if options.get("selector") != "auto":  # which would ignore tau
        options["tau"] = threshold(handle)
    handle.change(**options)
    got = model(images)
    expected = ours_sparse(ours, images, handle.sparsity)
    close(comparable(ours, got), expected)
    unlike(got, dense)
    report = handle.report()
    sparse = [e.layer for e in report.layers if e.kept_pairs < e.pairs or e.kept_blocks < 1]
    chosen = resolve(handle.sparsity, 8)
    rules = pair_rules(chosen, ours.global_layers, 8, ours.has_reference)
    assert tuple(sparse) == rules.sparse_layers
    assert [entry.regime for entry in report.layers] == list(map(str, rules.regimes))
    assert (report.scenes, report.views, report.selector) == (2, 8, chosen.selector)


@torch.inference_mode()
def test_auto_follows_the_number_of_views_of_a_scene() -> None:
    _, model = make_pair("vggt_a1")
    handle = accelerate(model, dense_up_to=4, light_up_to=5)
    for batch, views, selector, why in (
        (3, 4, "dense", "up to 4 views nothing is left out"),  # 12 frames, but of three scenes
        (1, 5, "light", "more than 4 views, up to 5"),
        (2, 6, "anchors", "more than 5 views"),
    ):
        model(scene(batch, views))
        report = handle.report()
        assert (report.selector, report.reason, report.views) == (selector, why, views)
        assert f"VGGT, {selector} ({why}): {batch} x {views} views" in str(report)
        if selector == "dense":
            assert {entry.regime for entry in report.layers} == {"dense"}
            with pytest.raises(CovisError, match="'dense' compares no views here"):
                _ = handle.similarity
        else:
            assert handle.similarity.shape == (batch, views, views)
    handle.change(selector="pooled")
    model(scene(1, 6))
    assert handle.report().selector == "pooled" and handle.report().reason == ""


@pytest.mark.parametrize("batch", [1, 2])
@torch.inference_mode()
def test_dense_is_the_original_and_tau_0_equals_it(pair: Pair, batch: int) -> None:
    _, model = pair
    images = scene(batch, views=3)
    dense = model(images)
    handle = accelerate(model, selector="dense")
    assert torch.equal(model(images), dense)
    report = handle.report()
    assert (report.scenes, report.views, report.kept_blocks) == (batch, 3, 1.0)
    for options in (
        {"selector": "saliency", "tau": 0.0},
        {"selector": "pooled", "keep_ratio": 1.0},
    ):
        handle.change(**options)
        close(model(images), dense)
        assert handle.report().kept_blocks == 1.0


@pytest.mark.parametrize("conditions", [(), ("depths",), ("poses",), ("depths", "poses")])
@torch.inference_mode()
def test_pi3x_is_sparse_with_and_without_its_conditions(conditions: tuple[str, ...]) -> None:
    """Against its own dense attention with a mask of the same pairs of views."""
    model = like_published(our_model("pi3_a1"), LikePi3X)  # type: ignore[arg-type]
    images = scene(batch=2)
    channels = model.register_token.shape[-1]  # type: ignore[union-attr]
    given = {"depths": scene(batch=2, seed=1), "poses": torch.randn(2, 8, channels)}
    given = {name: given[name] for name in conditions}
    dense = model(images, **given)
    handle = accelerate(model, selector="saliency", layers="all")
    assert handle.structure.model == "Pi3X"
    model(images, **given)
    handle.change(tau=threshold(handle))
    sparse = model(images, **given)
    scenes = handle._scenes
    assert scenes is not None
    restore(model)
    allowed = token_mask(scenes.level(0) > 0, special=5, frame=5 + HEIGHT // 14 * (WIDTH // 14))
    for attention in recognise(model).attentions:
        attention.forward = partial(masked, attention, allowed)
    close(sparse, model(images, **given))
    unlike(sparse, dense)


def token_mask(pairs: Tensor, special: int, frame: int) -> Tensor:
    """Return the tokens that attend to each other, bool (B, 1, S, S), from pairs of views."""
    allowed = pairs.repeat_interleave(frame, -2).repeat_interleave(frame, -1)
    everywhere = torch.arange(allowed.shape[-1]) % frame < special
    return allowed | everywhere | everywhere[:, None]


def masked(attention: Any, allowed: Tensor, x: Tensor, xpos: Tensor) -> Tensor:
    """The attention of Pi3 and Pi3X, with a mask."""
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = (attention.rope(y, xpos) for y in (attention.q_norm(q), attention.k_norm(k)))
    out = scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    projected: Tensor = attention.proj(out.transpose(1, 2).flatten(2))
    return projected


@torch.inference_mode()
def test_a_whole_number_of_blocks_is_kept_whole() -> None:
    """0.9 of 10 blocks are 9: float32(0.9) is below 0.9, and 10 times it rounds down to 8."""
    _, model = make_pair("vggt_a1")
    handle = accelerate(model, selector="pooled", keep_ratio=0.9, cdf=0.0, layers="all")
    model(scene(views=26))  # 624 patches are 10 blocks of keys
    assert [entry.kept_blocks for entry in handle.report().layers] == pytest.approx([0.9] * 4)


@torch.inference_mode()
def test_restore_is_exact(pair: Pair) -> None:
    _, model = pair
    images = scene()
    before, state = model(images), list(model.state_dict())
    handle = accelerate(model, selector="saliency", tau=1.0, layers="all")
    assert list(model.state_dict()) == state
    unlike(model(images), before)
    hooks = handle.structure.encoder._forward_hooks
    assert len(hooks) == 1
    restore(model)
    assert torch.equal(model(images), before)
    assert not hooks
    assert not any("forward" in module.__dict__ for module in model.modules())
    accelerate(model)
    restore(model)


def test_a_forward_of_the_user_s_own_is_put_back() -> None:
    _, model = make_pair("vggt_a1")
    attention = model.aggregator.global_blocks[0].attn  # type: ignore[union-attr,index]
    mine: Callable[..., Tensor] = type(attention).forward.__get__(attention)
    attention.forward = mine
    accelerate(model)
    restore(model)
    assert attention.__dict__["forward"] is mine


@torch.inference_mode()
def test_the_report_counts_pairs_and_blocks() -> None:
    _, model = make_pair("vggt_a1")
    handle = accelerate(model, selector="saliency", tau=1.0, layers="1-2")
    with pytest.raises(CovisError, match="has not been called"):
        handle.report()
    model(scene())
    report = handle.report()
    # tau = 1 leaves the self pairs, and row and column of the reference view.
    kept = 8 + 2 * 7
    assert [entry.kept_pairs for entry in report.layers] == [64, kept, kept, 64]
    assert [entry.kept_blocks for entry in report.layers] == [1.0, kept / 64, kept / 64, 1.0]
    assert f"layer  1: saliency=1, {kept} of 64 pairs, {kept / 64:.1%} of" in str(report)
    assert handle.similarity.shape == (1, 8, 8)


@torch.inference_mode()
def test_every_call_chooses_anew_and_one_view_works() -> None:
    ours, model = make_pair("vggt_a1")
    handle = accelerate(model, selector="saliency", tau=0.5)
    for views, seed in ((8, 1), (2, 2), (1, 3), (5, 4)):
        images = scene(views=views, seed=seed)
        got = model(images)
        handle.change(tau=threshold(handle) if views > 2 else 0.5)
        got = model(images)
        close(comparable(ours, got), ours_sparse(ours, images, handle.sparsity))
        assert handle.report().views == views


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_autocast_rounds_attention_but_not_the_choice(pair: Pair, kind: torch.dtype) -> None:
    _, model = pair
    images = scene()
    exact = model(images)
    with torch.autocast("cpu", dtype=kind):
        dense = model(images)
        handle = accelerate(model, selector="saliency", tau=0.0)
        replaced = model(images)
        rounding = (dense - exact).abs().max()
        assert rounding > 0
        assert (replaced - dense).abs().max() <= 0.5 * rounding
        encoder = handle.structure.encoder
        tokens: list[Tensor] = []
        encoder.register_forward_hook(lambda m, a, out: tokens.append(patch_tokens(out)))
        model(images)
    of_scene = descriptor_similarity(tokens[0].float())
    torch.testing.assert_close(handle.similarity[0], of_scene, rtol=0, atol=1e-6)


def patch_tokens(output: Any) -> Tensor:
    if isinstance(output, dict):
        return output["x_norm_patchtokens"]  # type: ignore[no-any-return]
    return output.features.flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


def test_gradients_flow_and_checkpointed_blocks_recompute_the_same() -> None:
    _, model = make_pair("vggt_a1")
    images = scene(views=4)
    accelerate(model, selector="saliency", tau=1.0)
    model.requires_grad_(True).train()
    grads = []
    for checkpointed in (False, True):
        model.zero_grad()
        model.aggregator.checkpointed = checkpointed  # type: ignore[union-attr]
        model(images).square().mean().backward()
        found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        assert len(found) > 50 and all(torch.isfinite(g).all() for g in found)
        grads.append(found)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@torch.inference_mode()
def test_a_copy_and_a_cast_model_are_accelerated_too() -> None:
    _, model = make_pair("pi3_a1")
    images = scene()
    dense = model(images)
    handle = accelerate(model, selector="saliency", tau=1.0)
    sparse = model(images)
    twin = copy.deepcopy(model)
    restore(model)
    assert torch.equal(model(images), dense)
    assert torch.equal(twin(images), sparse)
    handle.change(tau=0.0)  # the original's, not the copy's
    assert torch.equal(twin(images), sparse)
    twin.double()
    torch.testing.assert_close(twin(images.double()).float(), sparse, rtol=0, atol=1e-3)
    restore(twin)
    close(twin(images.double()).float(), dense)


@torch.inference_mode()
def test_an_encoder_that_gives_a_tensor_and_the_aggregator_alone() -> None:
    _, model = make_pair("vggt_a1")
    aggregator: Any = model.aggregator
    images = scene()
    accelerate(model, selector="saliency", tau=1.0)
    expected = model(images)
    restore(model)

    class Plain(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, pictures: Tensor) -> Tensor:
            return patch_tokens(self.inner(pictures))

    aggregator.patch_embed = Plain(aggregator.patch_embed)
    accelerate(aggregator, selector="saliency", tau=1.0)
    assert torch.equal(aggregator(images), expected)
    restore(aggregator)


BAD_MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "another": (lambda: nn.Linear(2, 2), "none of the models .*VGGT has aggregator.patch_embed"),
    "no attn": (lambda: without("attn"), "VGGT: 3 of its 4 global blocks .* name attn"),
    "no qkv": (lambda: without("attn.qkv"), "VGGT global attention 0: has no qkv"),
    "all global": (
        lambda: marked("mapanything_a1", "info_sharing_type", "global_attention"),
        "info_sharing_type = 'global_attention'",
    ),
    "entropy": (
        lambda: marked(
            "mapanything_a1", "info_sharing.self_attention_blocks.2.attn.use_entropy_scaling"
        ),
        "MapAnything global attention 1: has use_entropy_scaling set",
    ),
}


def without(path: str) -> nn.Module:
    _, model = make_pair("vggt_a1")
    owner, _, name = f"aggregator.global_blocks.0.{path}".rpartition(".")
    delattr(model.get_submodule(owner), name)
    return model


def marked(config: str, path: str, value: Any = True) -> nn.Module:
    _, model = make_pair(config)
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, value)
    return model


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_what_is_not_recognised_is_told_and_left_alone(kind: str) -> None:
    make, message = BAD_MODELS[kind]
    model = make()
    with pytest.raises(CovisError, match=message) as caught:
        accelerate(model)
    assert "\n" not in str(caught.value)
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in model.modules())


def test_misuse_is_one_line_and_changes_nothing() -> None:
    _, model = make_pair("vggt_a1")
    aggregator: Any = model.aggregator
    with pytest.raises(CovisError, match="is not accelerated"):
        restore(model)
    for options, message in (
        ({"tua": 0.5}, "no field tua; known: selector, schedule"),
        ({"selector": "sparse"}, "selector: 'sparse' is unknown; use one of auto"),
        ({"layers": "7-9"}, "names none of the model's 4 global layers"),
        ({"tau": 2.0}, r"2.0 is not in \[0, 1\]"),
        ({"schedule": "0-2:self"}, "leaves out layer 3 of the model's 4"),
        ({"schedule": "0-4:self"}, "the model has no global layer 4; use 0 to 3"),
        ({"schedule": "0-1:self, 1-3:dense"}, "names layer 1 twice"),
        ({"schedule": "0:near, rest:dense"}, "'near' is no regime"),
    ):
        with pytest.raises(CovisError, match=message):
            accelerate(model, **options)
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in model.modules())
    handle = accelerate(model, selector="auto")
    for again in (model, aggregator):
        with pytest.raises(CovisError, match="accelerated already"):
            accelerate(again)
    block = aggregator.global_blocks[0]
    with pytest.raises(CovisError, match="global attention 0: runs before the encoder"):
        block(torch.rand(1, 58, 128), torch.zeros(1, 58, 2))
    handle.change(selector="saliency")
    with pytest.raises(CovisError, match="global attention 0: runs before the encoder"):
        block(torch.rand(1, 58, 128), torch.zeros(1, 58, 2))
    model(scene(views=4))
    with pytest.raises(CovisError, match="2 x 57 tokens, but the encoder last saw 4 frames of 24"):
        block(torch.rand(2, 57, 128), torch.zeros(2, 57, 2))
    handle.change(selector="pooled")
    with pytest.raises(CovisError, match="has not been called since"):
        _ = handle.similarity
    attention = block.attn
    ours = attention.forward
    attention.forward = lambda x, pos=None: x
    with pytest.raises(CovisError, match="global attention 0: was replaced again"):
        restore(model)
    attention.forward = ours
    attention.attn_drop.p = 0.1
    attention.train()
    with pytest.raises(CovisError, match=r"attention dropout 0\.1 in training mode"):
        model(scene(views=2))
    restore(model)


def test_a_bias_on_the_scores_is_refused() -> None:
    _, model = make_pair("pi3_a1")
    accelerate(model, selector="saliency")
    model(scene(views=2))
    attention = recognise(model).attentions[0]
    with pytest.raises(CovisError, match="Pi3 global attention 0: got attn_bias"):
        attention(torch.rand(1, 58, 128), attn_bias=torch.zeros(58, 58))


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import covis.export, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
