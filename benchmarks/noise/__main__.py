"""The command line: `python -m benchmarks.noise`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.noise import report, study


def main(argv: Sequence[str] | None = None) -> None:
    """Train, write what was seen, and show it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise", description=study.__doc__)
    parser.add_argument("--steps", type=int, default=300, help="of each run; 300")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each; 3")
    parser.add_argument("--out", type=Path, default=report.FILE, help="file")
    arguments = parser.parse_args(argv)
    record = {
        "arguments": {"steps": arguments.steps, "seeds": arguments.seeds},
        "environment": results.environment(),
        "runs": study.measure(arguments.steps, arguments.seeds),
    }
    results.write(arguments.out, record)
    print(report.page(record))


if __name__ == "__main__":
    main()
