"""θ₀ is a copy in the parameters' own terms, and ∇f₀ is what autograd finds for ½‖θ − θ₀‖²."""

import pytest
import torch
from torch.nn import Parameter

from mgrad import Anchor
from mgrad.anchor import Pull, moved, pull_back


def test_start_is_a_copy_of_the_present_weights() -> None:
    w = Parameter(torch.ones(2))
    (start,) = Anchor().start([w])
    with torch.no_grad():
        w.mul_(3)
    assert start.tolist() == [1.0, 1.0]
    assert not start.requires_grad


def test_start_is_a_copy_of_the_reference_in_the_dtype_of_the_parameter() -> None:
    reference = torch.full((2,), 2.0, dtype=torch.float64)
    (start,) = Anchor([reference]).start([Parameter(torch.ones(2, dtype=torch.bfloat16))])
    reference.zero_()
    assert start.dtype == torch.bfloat16
    assert start.tolist() == [2.0, 2.0]


def test_a_reference_of_the_same_dtype_is_copied_too() -> None:
    reference = torch.ones(2)
    (start,) = Anchor([reference]).start([Parameter(torch.zeros(2))])
    assert start.data_ptr() != reference.data_ptr()


@pytest.mark.parametrize("strength", [0.5, 1.0, 4.0])  # powers of two: no rounding in either computation
def test_gradient_is_that_of_half_the_squared_distance(strength: float) -> None:
    w, start = Parameter(torch.tensor([3.0, -1.0])), torch.tensor([1.0, 1.0])
    (0.5 * strength * (w - start).square().sum()).backward()
    gradient = pull_back(w, start, strength)
    assert w.grad is not None
    assert torch.equal(gradient, w.grad)


def test_gradient_is_a_new_tensor() -> None:
    w, start = Parameter(torch.tensor([3.0])), torch.tensor([1.0])
    pull_back(w, start, 1.0).zero_()
    assert (w.item(), start.item()) == (3.0, 1.0)


@pytest.mark.parametrize("reference", [3, torch.ones(2), [1.0], {"w": torch.ones(2)}], ids=str)
def test_a_reference_must_be_a_list_of_tensors(reference: object) -> None:
    with pytest.raises(TypeError, match=r"`Anchor\(reference=\.\.\.\)` must be a list of tensors\. Found \w+\. Pass"):
        Anchor(reference)  # type: ignore[arg-type]


def test_a_reference_must_have_as_many_tensors_as_there_are_parameters() -> None:
    with pytest.raises(ValueError, match=r"must have one tensor .* Found 1 for 2 parameters"):
        Anchor([torch.ones(2)]).start([Parameter(torch.ones(2)), Parameter(torch.ones(2))])


def test_a_reference_must_have_the_shapes_of_the_parameters() -> None:
    with pytest.raises(ValueError, match=r"must have the shapes .* Found \[3\] for parameter 1 of shape \[2\]\."):
        Anchor([torch.ones(2), torch.ones(3)]).start([Parameter(torch.ones(2)), Parameter(torch.ones(2))])


def test_anchors_add_up_with_the_sum_of_python() -> None:
    total = sum([2 * Anchor([torch.zeros(1)]), Anchor([torch.full((1,), 3.0)])])
    assert isinstance(total, Anchor)
    parameters = [Parameter(torch.ones(1))]
    assert total.weights(parameters) == [3.0]
    assert total.start(parameters)[0].item() == 1.0  # ½·2(θ − 0)² + ½(θ − 3)² is least there
    with pytest.raises(TypeError, match="unsupported operand"):
        1 + Anchor()


@pytest.mark.parametrize("weight", [1.0, 0.5, None], ids=["1", "number", "tensor"])
def test_pieces_of_a_pull_are_those_of_the_whole(weight: float | None) -> None:
    w, start, loss = torch.randn(4, 3), torch.randn(3, 4).T, torch.randn(4, 3)
    factor = torch.rand(4, 3) if weight is None else weight
    pull = Pull(w, start, factor, [loss])
    expected = (pull_back(w, start, factor) + loss).reshape(-1)
    assert pull.numel() == 12
    assert torch.equal(torch.cat([pull.piece(0, 5), pull.piece(5, 12)]), expected)


@pytest.mark.parametrize("kept", [torch.float64, torch.bfloat16])
def test_the_value_of_f0_has_its_gradient(kept: torch.dtype) -> None:
    """(60), and (124) of a rounded start: by central differences, exact for the piecewise square off its edges."""
    generator = torch.Generator().manual_seed(0)
    begin = 10 * torch.randn(30, generator=generator, dtype=torch.float64)
    start, weight = begin.to(kept), torch.rand(30, generator=generator, dtype=torch.float64)
    assert moved(begin, start, weight) == 0
    w = begin + torch.randn(30, generator=generator, dtype=torch.float64)
    gradient, h = pull_back(w, start, weight), 1e-6
    for k, unit in enumerate(torch.eye(30, dtype=torch.float64) * h):
        slope = (moved(w + unit, start, weight) - moved(w - unit, start, weight)) / (2 * h)
        assert float(slope) == pytest.approx(float(gradient[k]), abs=1e-7)
