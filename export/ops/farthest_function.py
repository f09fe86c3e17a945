"""Text of FarthestFirst as an ONNX function of standard operators; see `functions`."""

from __future__ import annotations

from typing import Final

# Types of Cast: 6 is int32, 7 int64.
# - The loop carries one score a view: the mean similarity before the first step, then the least
#   distance to the views taken. Views taken have the score `lowest`, so ArgMax cannot take one
#   twice. Finite values beyond it would be mistaken for views taken; they count as NaN does.
# - A step reads one row and one column of the similarity. No matrix is allocated.
# - ArgMax reads a row of a matrix, because TensorRT's needs two dimensions.
# - The loop carries the ranks too. Shape inference does not know the shape of what a loop carries,
#   hence the Reshape at the end.
# - Shapes in the subgraph have no names, because a name would mean one size for all loops.
FARTHEST_FIRST: Final = """
<domain: "covis", opset_import: ["" : 20],
 doc_string: "FarthestFirst, version 1.">
FarthestFirst
(similarity, given, count) => (rank)
{
  zero = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  nothing = Constant <value_float = 0.0> ()
  half = Constant <value_float = 0.5> ()
  unit = Constant <value_float = 1.0> ()
  lowest = Constant <value_float = -3.0e38> ()
  largest = Constant <value_float = 3.0e38> ()
  views_1 = Shape (given)
  views = Squeeze (views_1)
  index = Range (zero, views, one)
  count_least = Max (count, zero)
  steps = Min (count_least, views)
  axis_0 = Constant <value_ints = [0]> ()
  axis_1 = Constant <value_ints = [1]> ()
  row_mean = ReduceMean <keepdims = 0> (similarity, axis_1)
  column_mean = ReduceMean <keepdims = 0> (similarity, axis_0)
  mean_sum = Add (row_mean, column_mean)
  mean = Mul (mean_sum, half)
  mean_size = Abs (mean)
  mean_finite = Less (mean_size, largest)
  score_first = Where (mean_finite, mean, nothing)
  no_condition = Constant <value = bool {1}> ()
  views_int = Cast <to = 6> (views)
  not_taken = Expand (views_int, views_1)
  score_last, rank_last = Loop (steps, no_condition, score_first, not_taken) <
    body = step_body (int64 step, bool condition, float[?] score, int32[?] rank_before)
    => (bool condition_out, float[?] score_out, int32[?] rank_after) {
      condition_out = Identity (condition)
      wanted = Gather <axis = 0> (given, step)
      not_negative = GreaterOrEqual (wanted, zero)
      not_beyond = Less (wanted, views)
      is_inside = And (not_negative, not_beyond)
      wanted_inside = Where (is_inside, wanted, zero)
      wanted_score = Gather <axis = 0> (score, wanted_inside)
      is_free = Greater (wanted_score, lowest)
      is_given = And (is_inside, is_free)
      score_row = Unsqueeze (score, axis_0)
      farthest_1 = ArgMax <axis = 1, keepdims = 0> (score_row)
      farthest = Squeeze (farthest_1)
      view = Where (is_given, wanted_inside, farthest)
      row = Gather <axis = 0> (similarity, view)
      column = Gather <axis = 1> (similarity, view)
      both = Add (row, column)
      average = Mul (both, half)
      size = Abs (average)
      is_finite = Less (size, largest)
      average_finite = Where (is_finite, average, nothing)
      distance_all = Sub (unit, average_finite)
      is_view = Equal (index, view)
      distance = Where (is_view, lowest, distance_all)
      nearer = Min (score, distance)
      is_first = Equal (step, zero)
      score_out = Where (is_first, distance, nearer)
      step_int = Cast <to = 6> (step)
      rank_after = Where (is_view, step_int, rank_before)
    }
  >
  rank = Reshape (rank_last, views_1)
}
"""
