"""Tables are the same numbers whichever caller and mode computes them first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from covis.export.models.tables import like, table


@table
def _ramp(count: int) -> tuple[Tensor, ...]:
    return (torch.arange(count, dtype=torch.float64),)


def test_tables_made_in_any_mode_are_real_and_trainable() -> None:
    with torch.device("meta"):
        first = _ramp(3)
    with torch.inference_mode():
        second = _ramp(4)
    with FakeTensorMode():
        third = _ramp(5)
    for count, (tensor,) in enumerate((first, second, third), start=3):
        assert type(tensor) is Tensor and tensor.device.type == "cpu" and not tensor.is_inference()
        assert tensor.tolist() == list(range(count))
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((weight * second[0]).sum(), weight)
    assert gradient.tolist() == [0, 1, 2, 3]


def test_tables_are_made_once() -> None:
    assert _ramp(7)[0] is _ramp(7)[0]


def test_tables_take_the_type_of_what_they_meet() -> None:
    assert like(_ramp(3), torch.zeros(1, dtype=torch.bfloat16))[0].dtype == torch.bfloat16
    assert like(_ramp(3), torch.zeros(1, device="meta"))[0].device.type == "cpu"
