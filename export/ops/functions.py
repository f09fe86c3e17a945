"""The three ops as ONNX functions of standard operators, so that any runtime can run a model.

Attention computes the dense meaning: the score matrix of the whole sequence is allocated, and a
bias with the batch and heads of the map. A runtime that has a kernel for an op uses the kernel
instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache

import onnx
from onnx import FunctionProto, parser

from covis.engines.op import ATTENTION_ATTRIBUTES, SELECT_ATTRIBUTES
from covis.export.ops.farthest_function import FARTHEST_FIRST

# Types of Cast: 1 is float32, 3 int8, 6 int32, 7 int64, 9 bool.
# - Maps are int32 inside the function, because runtimes have few operators for int8 (TensorRT only
#   has casts) and even fewer for strings.
# - Skipped scores are lowered by a finite number, so that a row without any key to attend to has no
#   NaN in its softmax. Such a row is set to zero afterwards.
# - Tokens that are always dense belong to one additional region. The bias gets one row and one
#   column of "attend" for it by Concat, because ONNX Runtime below 1.25 cannot infer the shape of a
#   Pad inside an If of a function.
# - The bias has the batch and heads of the map. A Where on the scores would allocate two more
#   matrices of their size in ONNX Runtime.
# - Outputs of the branches have unnamed dimensions, because a name would mean one size for all
#   nodes of the model.
_ATTENTION = """
<domain: "covis", opset_import: ["" : 20],
 doc_string: "Dense meaning of BlockSparseAttention, version 1; level 1 computes exactly.">
BlockSparseAttention <{attributes}>
(Q, K, V, level) => (O)
{
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  Qf = Cast <to = 1> (Q)
  Kf = Cast <to = 1> (K)
  Vf = Cast <to = 1> (V)
  S = Shape <start = 2, end = 3> (Q)
  D = Shape <start = 3, end = 4> (Q)
  D_float = Cast <to = 1> (D)
  root = Sqrt (D_float)
  default_scale = Reciprocal (root)
  no_scale = Constant <value_float = 0.0> ()
  given_scale = Constant <value_float: float = @scale> ()
  is_default = Equal (given_scale, no_scale)
  factor = Where (is_default, default_scale, given_scale)
  Q_scaled = Mul (Qf, factor)
  K_transposed = Transpose <perm = [0, 1, 3, 2]> (Kf)
  level_wide = Cast <to = 6> (level)
  elements = Size (level_wide)
  is_single = Equal (elements, one)
  highest = ReduceMax <keepdims = 0> (level_wide)
  is_kept = Cast <to = 9> (highest)
  is_dense = And (is_single, is_kept)
  O_float = If (is_dense) <
    then_branch = dense () => (float[?, ?, ?, ?] O_dense) {
      scores_dense = MatMul (Q_scaled, K_transposed)
      weights_dense = Softmax <axis = -1> (scores_dense)
      O_dense = MatMul (weights_dense, Vf)
    },
    else_branch = sparse () => (float[?, ?, ?, ?] O_sparse) {
      frame_tokens_ = Constant <value_int: int = @frame_tokens> ()
      first = Constant <value_int: int = @special_first> ()
      last = Constant <value_int: int = @special_last> ()
      trailing = Constant <value_int: int = @trailing_tokens> ()
      q_size = Constant <value_int: int = @q_block> ()
      k_size = Constant <value_int: int = @k_block> ()
      after_patches = Sub (frame_tokens_, last)
      patches = Sub (after_patches, first)
      S_scalar = Squeeze (S)
      body = Sub (S_scalar, trailing)
      index = Range (zero, S_scalar, one)
      place = Mod (index, frame_tokens_)
      frame = Div (index, frame_tokens_)
      frame_start = Mul (frame, patches)
      frame_shifted = Sub (frame_start, first)
      patch_number = Add (frame_shifted, place)
      in_frames = Less (index, body)
      past_first = GreaterOrEqual (place, first)
      before_last = Less (place, after_patches)
      in_middle = And (past_first, before_last)
      is_patch = And (in_frames, in_middle)
      q_regions = Shape <start = 2, end = 3> (level_wide)
      k_regions = Shape <start = 3, end = 4> (level_wide)
      q_highest = Sub (q_regions, one)
      k_highest = Sub (k_regions, one)
      q_exact = Div (patch_number, q_size)
      k_exact = Div (patch_number, k_size)
      q_clipped = Min (q_exact, q_highest)
      k_clipped = Min (k_exact, k_highest)
      q_region = Where (is_patch, q_clipped, q_regions)
      k_region = Where (is_patch, k_clipped, k_regions)
      attend = Cast <to = 9> (level_wide)
      nothing = Constant <value_float = 0.0> ()
      lowest = Constant <value_float = -3.0e38> ()
      region_bias = Where (attend, nothing, lowest)
      heads = Shape <start = 0, end = 2> (level_wide)
      one_1 = Constant <value_ints = [1]> ()
      row_shape = Concat <axis = 0> (heads, one_1, k_regions)
      always_row = Expand (nothing, row_shape)
      region_bias_tall = Concat <axis = 2> (region_bias, always_row)
      rows_and_one = Add (q_regions, one)
      column_shape = Concat <axis = 0> (heads, rows_and_one, one_1)
      always_column = Expand (nothing, column_shape)
      region_bias_padded = Concat <axis = 3> (region_bias_tall, always_column)
      bias_rows = Gather <axis = 2> (region_bias_padded, q_region)
      bias = Gather <axis = 3> (bias_rows, k_region)
      scores = MatMul (Q_scaled, K_transposed)
      scores_kept = Add (scores, bias)
      weights = Softmax <axis = -1> (scores_kept)
      mixed = MatMul (weights, Vf)
      patch_count = Cast <to = 7> (is_patch)
      axis_last = Constant <value_ints = [-1]> ()
      patches_total = ReduceSum <keepdims = 0> (patch_count)
      has_always = Less (patches_total, S_scalar)
      region_highest = ReduceMax <keepdims = 1> (level_wide, axis_last)
      q_inside = Where (is_patch, q_clipped, zero)
      row_highest = Gather <axis = 2> (region_highest, q_inside)
      row_kept = Cast <to = 9> (row_highest)
      row_any = Or (row_kept, has_always)
      O_sparse = Where (row_any, mixed, nothing)
    }
  >
  O = CastLike (O_float, Q)
}
"""

# {x} is Q or K, {r} its block attribute; {pad_value} and {pooled} depend on `pool`.
_POOL = """
  {x}_cut = Slice ({x}, zero_1, body_1, axis_2)
  {x}_frames = Reshape ({x}_cut, frames_shape)
  {x}_patches = Slice ({x}_frames, first_1, after_1, axis_3)
  {x}_flat = Reshape ({x}_patches, flat_shape)
  {x}_float = Cast <to = 1> ({x}_flat)
  {x}_size = Constant <value_int: int = @{r}> ()
  {x}_up = Add (N, {x}_size)
  {x}_up_1 = Sub ({x}_up, one)
  {x}_regions = Div ({x}_up_1, {x}_size)
  {x}_padded_N = Mul ({x}_regions, {x}_size)
  {x}_short = Sub ({x}_padded_N, N)
  {x}_short_1 = Reshape ({x}_short, shape_1)
  {x}_pads = Concat <axis = 0> (zeros_6, {x}_short_1, zero_1)
  {x}_padded = Pad ({x}_float, {x}_pads, {pad_value})
  {x}_regions_1 = Reshape ({x}_regions, shape_1)
  {x}_size_1 = Reshape ({x}_size, shape_1)
  {x}_block_shape = Concat <axis = 0> (BH, {x}_regions_1, {x}_size_1, D)
  {x}_blocks = Reshape ({x}_padded, {x}_block_shape)
  {x}_index = Range (zero, {x}_regions, one)
  {x}_start = Mul ({x}_index, {x}_size)
  {x}_left = Sub (N, {x}_start)
  {x}_length = Min ({x}_left, {x}_size)
{pooled}
  {x}_frame_first = Div ({x}_start, P)
  {x}_end = Add ({x}_start, {x}_length)
  {x}_end_1 = Sub ({x}_end, one)
  {x}_frame_last_all = Div ({x}_end_1, P)
  {x}_frame_last = Min ({x}_frame_last_all, pair_highest)
  {x}_reach = Add ({x}_size, P)
  {x}_reach_2 = Sub ({x}_reach, two)
  {x}_reach_frames = Div ({x}_reach_2, P)
  {x}_span = Add ({x}_reach_frames, one)
  {x}_steps = Range (zero, {x}_span, one)
  {x}_first_column = Unsqueeze ({x}_frame_first, axis_1)
  {x}_last_column = Unsqueeze ({x}_frame_last, axis_1)
  {x}_touched_all = Add ({x}_first_column, {x}_steps)
  {x}_touched = Min ({x}_touched_all, {x}_last_column)
"""

_POOLED = {
    "mean": """\
  {x}_length_float = Cast <to = 1> ({x}_length)
  {x}_length_column = Unsqueeze ({x}_length_float, axis_1)
  {x}_sum = ReduceSum <keepdims = 0> ({x}_blocks, axis_3)
  {x}_pooled = Div ({x}_sum, {x}_length_column)""",
    "max": """\
  {x}_pooled = ReduceMax <keepdims = 0> ({x}_blocks, axis_3)""",
}
_PAD_VALUE = {"mean": "nothing", "max": "lowest"}

# The top-k count is floor(keep_ratio n) with an exact product, as in float64. TensorRT has no
# float64, so keep_ratio is split into two integers of 30 bits by steps that do not round. The
# remainder is 0, unless keep_ratio is below 2^-37, where the result is 0 anyway.
_SELECT = """
<domain: "covis", opset_import: ["" : 20],
 doc_string: "BlockSelect, version 1, of the pool {pool}.">
BlockSelect <{attributes}>
(Q, K, pair, keep_ratio, cdf) => (level)
{
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  two = Constant <value_int = 2> ()
  zero_1 = Constant <value_ints = [0]> ()
  zeros_6 = Constant <value_ints = [0, 0, 0, 0, 0, 0]> ()
  shape_1 = Constant <value_ints = [1]> ()
  axis_1 = Constant <value_ints = [1]> ()
  axis_2 = Constant <value_ints = [2]> ()
  axis_3 = Constant <value_ints = [3]> ()
  axis_last = Constant <value_ints = [-1]> ()
  frame_tokens_ = Constant <value_int: int = @frame_tokens> ()
  first = Constant <value_int: int = @special_first> ()
  last = Constant <value_int: int = @special_last> ()
  trailing = Constant <value_int: int = @trailing_tokens> ()
  lowest = Constant <value_float = -3.0e38> ()
  nothing = Constant <value_float = 0.0> ()
  BH = Shape <start = 0, end = 2> (Q)
  S_1 = Shape <start = 2, end = 3> (Q)
  S = Squeeze (S_1)
  D = Shape <start = 3, end = 4> (Q)
  after = Sub (frame_tokens_, last)
  P = Sub (after, first)
  body = Sub (S, trailing)
  M = Div (body, frame_tokens_)
  N = Mul (M, P)
  body_1 = Reshape (body, shape_1)
  first_1 = Reshape (first, shape_1)
  after_1 = Reshape (after, shape_1)
  M_1 = Reshape (M, shape_1)
  N_1 = Reshape (N, shape_1)
  frame_tokens_1 = Reshape (frame_tokens_, shape_1)
  frames_shape = Concat <axis = 0> (BH, M_1, frame_tokens_1, D)
  flat_shape = Concat <axis = 0> (BH, N_1, D)
  pair_wide = Cast <to = 6> (pair)
  pair_size_1 = Shape <start = 2, end = 3> (pair_wide)
  pair_highest = Sub (pair_size_1, one)
{blocks}  K_pooled_T = Transpose <perm = [0, 1, 3, 2]> (K_pooled)
  products = MatMul (Q_pooled, K_pooled_T)
  D_float = Cast <to = 1> (D)
  root = Sqrt (D_float)
  scores = Div (products, root)
  outer_axes = Constant <value_ints = [0, 1]> ()
  pair_2d = Squeeze (pair_wide, outer_axes)
  pair_rows = Gather <axis = 0> (pair_2d, Q_touched)
  pair_rows_max = ReduceMax <keepdims = 0> (pair_rows, axis_1)
  pair_blocks = Gather <axis = 1> (pair_rows_max, K_touched)
  candidate_level = ReduceMax <keepdims = 0> (pair_blocks, axis_2)
  is_candidate = Cast <to = 9> (candidate_level)
  is_candidate_int = Cast <to = 7> (is_candidate)
  n = ReduceSum <keepdims = 1> (is_candidate_int, axis_last)
  masked = Where (is_candidate, scores, lowest)
  ranked, order = TopK <axis = -1, largest = 1, sorted = 1> (masked, K_regions_1)
  probabilities = Softmax <axis = -1> (ranked)
  last_axis = Constant <value_int = -1> ()
  mass = CumSum (probabilities, last_axis)
  slack = Constant <value_float = 1.0e-5> ()
  limit = Add (cdf, slack)
  rank = Range (zero, K_regions, one)
  is_ranked = Less (rank, n)
  in_mass = LessOrEqual (mass, limit)
  in_mass_ranked = And (in_mass, is_ranked)
  in_mass_int = Cast <to = 7> (in_mass_ranked)
  n_cdf = ReduceSum <keepdims = 1> (in_mass_int, axis_last)
  unit = Constant <value_float = 1073741824.0> ()
  unit_int = Constant <value_int = 1073741824> ()
  ratio_scaled = Mul (keep_ratio, unit)
  ratio_floor = Floor (ratio_scaled)
  ratio_rest = Sub (ratio_scaled, ratio_floor)
  rest_scaled = Mul (ratio_rest, unit)
  ratio_high = Cast <to = 7> (ratio_floor)
  ratio_low = Cast <to = 7> (rest_scaled)
  top_low = Mul (ratio_low, n)
  top_carry = Div (top_low, unit_int)
  top_high = Mul (ratio_high, n)
  top_scaled = Add (top_high, top_carry)
  top_k = Div (top_scaled, unit_int)
  larger = Max (top_k, n_cdf)
  at_least_one = Max (larger, one)
  kept_count = Min (at_least_one, n)
  kept_ranked = Less (rank, kept_count)
  kept_ranked_int = Cast <to = 6> (kept_ranked)
  order_shape = Shape (order)
  blank = ConstantOfShape <value = int32[1] {0}> (order_shape)
  kept = ScatterElements <axis = -1> (blank, order, kept_ranked_int)
  level_wide = Mul (kept, candidate_level)
  level = Cast <to = 3> (level_wide)
}
"""


def functions(pool: str = "mean") -> list[FunctionProto]:
    """Return the function bodies of the three ops as fresh copies.

    Args:
        pool: `pool` of the graph's BlockSelect nodes, "mean" or "max". The body ignores the
            attribute of a node, because a choice by attribute would need operators on strings.
    """
    copies = []
    for function in _parsed(pool):
        copy = onnx.FunctionProto()
        copy.CopyFrom(function)
        copies.append(copy)
    return copies


@cache
def _parsed(pool: str) -> tuple[FunctionProto, ...]:
    blocks = [
        _POOL.format(x=x, r=r, pad_value=_PAD_VALUE[pool], pooled=_POOLED[pool].format(x=x))
        for x, r in (("Q", "q_block"), ("K", "k_block"))
    ]
    attention = _ATTENTION.replace("{attributes}", _declared(ATTENTION_ATTRIBUTES))
    select = _SELECT.replace("{attributes}", _declared(SELECT_ATTRIBUTES))
    select = select.replace("{pool}", pool).replace("{blocks}", "".join(blocks))
    return tuple(parser.parse_function(text) for text in (attention, select, FARTHEST_FIRST))


def _declared(attributes: Mapping[str, int | float | str]) -> str:
    """Declare attributes with their defaults in ONNX's text format."""
    kinds = {int: "int", float: "float", str: "string"}
    return ", ".join(
        f"{name}: {kinds[type(default)]} = {json.dumps(default)}"
        for name, default in attributes.items()
    )
