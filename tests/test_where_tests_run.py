"""What a test makes is on the device of `--device`, with the numbers that it has on the host."""

import pytest
import torch
from torch.nn import Linear

from tests.devices import default_device
from tests.training import new_model


def drawn() -> list[torch.Tensor]:
    """Return what tests draw: by keyword, with shapes of either form, whole numbers and orders."""
    g = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, generator=g),
        torch.randn((2, 3), generator=g, dtype=torch.float64),
        torch.rand(torch.Size([4]), generator=g),
        torch.randint(7, (3, 6), generator=g),
        torch.randperm(5, generator=g),
    ]


def test_random_numbers_are_those_of_the_host() -> None:
    expected = drawn()
    with default_device("cpu"):
        found = drawn()
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_tensors_modules_and_models_are_on_the_device() -> None:
    """Which has no values here, and is a GPU elsewhere."""
    with default_device("meta"):
        made = [*drawn(), torch.ones(2), torch.tensor([1.0]), *Linear(2, 2).parameters(), *new_model().parameters()]
        moved = torch.randn_like(torch.ones(2))
        assert torch.zeros(2, device="cpu").device.type == "cpu"
    assert {tensor.device.type for tensor in [*made, moved]} == {"meta"}


def test_a_model_of_the_tests_has_the_same_weights_everywhere() -> None:
    expected = list(new_model().parameters())
    with default_device("cpu"):
        found = list(new_model().parameters())
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.any_device
def test_the_option_chooses_the_device(request: pytest.FixtureRequest) -> None:
    device = request.config.getoption("--device")
    assert torch.ones(1).device.type == ("cpu" if device is None else torch.device(device).type)
