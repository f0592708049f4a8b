"""Settings of all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.devices import default_device

# The same examples every time, so that `make test` says the same of the same code; `--hypothesis-profile=search` looks
# for new ones. A first example pays for torch's start-up, so time is no criterion.
settings.register_profile("search", deadline=None, max_examples=1000, print_blob=True)
settings.register_profile("same", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def on_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test that does not depend on the device on that of `--device`."""
    device = request.config.getoption("--device")
    if device is None or request.node.get_closest_marker("any_device") is None:
        yield
        return
    with default_device(device):
        yield
