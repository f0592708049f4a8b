"""The command lines that the small studies share: measure, write JSON, show the page that is made of it.

In: what measures, and what makes a page of the record. Out: functions for `__main__`. May import: results.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import results

Page = Callable[[dict[str, Any]], str]
Main = Callable[[Sequence[str] | None], None]


def study(
    name: str, about: str | None, measure: Callable[[int, int], Any], page: Page, file: Path, steps: int, seeds: int
) -> Main:
    """Return the command that measures for so many steps and seeds, writes what was seen, and shows it."""

    def main(argv: Sequence[str] | None = None) -> None:
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
        parser.add_argument("--steps", type=int, default=steps, help=f"of each run; {steps}")
        parser.add_argument("--seeds", type=int, default=seeds, help=f"runs of each; {seeds}")
        parser.add_argument("--out", type=Path, default=file, help="file")
        arguments = parser.parse_args(argv)
        record = {
            "arguments": {"steps": arguments.steps, "seeds": arguments.seeds},
            "environment": results.environment(),
            "runs": measure(arguments.steps, arguments.seeds),
        }
        results.write(arguments.out, record)
        print(page(record))

    return main


def show(name: str, page: Page, file: Path) -> Main:
    """Return the command that shows the page of a file."""

    def main(argv: Sequence[str] | None = None) -> None:
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}.report", description="Tables.")
        parser.add_argument("file", type=Path, nargs="?", default=file)
        print(page(results.read(parser.parse_args(argv).file)))

    return main
