"""The command line: `python -m benchmarks.solvers`, and with `--stress` the stress run."""

import os

# Read once, when NumPy is imported. The processes of the stress run inherit them.
os.environ.update(dict.fromkeys(["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"], "1"))

from benchmarks.solvers.cli import main

if __name__ == "__main__":
    main()
