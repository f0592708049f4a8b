"""Settings of all tests."""

from hypothesis import settings

# The same examples every time, so that `make test` says the same of the same code; `--hypothesis-profile=search` looks
# for new ones. A first example pays for torch's start-up, so time is no criterion.
settings.register_profile("search", deadline=None, max_examples=1000, print_blob=True)
settings.register_profile("same", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("same")
