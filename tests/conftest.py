"""Settings of all tests."""

import os

from hypothesis import settings

# The same examples every time on CI; new ones at each run elsewhere. A first example pays for torch's start-up, so time
# is no criterion.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
