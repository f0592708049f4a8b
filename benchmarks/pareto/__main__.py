"""The command line: `python -m benchmarks.pareto`."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import results
from benchmarks.pareto import plot, report
from benchmarks.pareto.methods import AGAINST_NOISE, METHODS
from benchmarks.pareto.runs import descend
from mgrad.problems import suite


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not there yet, one file for each problem; then show the tables and draw the pictures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pareto",
        description="Descend on problems whose Pareto sets are known, by mgrad's rules and by others, and see who gets "
        "there, and how far from the start. A problem whose file is there is not run again.",
    )
    parser.add_argument("--steps", type=int, default=600, help="of each run; 600")
    parser.add_argument("--seeds", type=int, default=3, help="starts of each problem; 3")
    parser.add_argument("--problems", nargs="+", metavar="PART", default=[""], help="whose names contain a part; all")
    names = [*METHODS, *AGAINST_NOISE]
    parser.add_argument("--methods", nargs="+", choices=names, metavar="METHOD", default=list(METHODS), help="which")
    parser.add_argument("--out", type=Path, default=report.DIRECTORY, help="directory of the files")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    chosen = [problem for problem in suite() if any(p in problem.name for p in arguments.problems)]
    missing = [problem for problem in chosen if not (arguments.out / file_name(problem.name)).exists()]
    with tqdm(total=len(missing) * len(arguments.methods), unit="method", dynamic_ncols=True) as progress:
        for problem in missing:
            progress.set_description(problem.name[:40])
            record = descend(problem, arguments.methods, arguments.steps, arguments.seeds, progress)
            settings = {"steps": arguments.steps, "seeds": arguments.seeds}
            whole = {**record, "arguments": settings, "environment": results.environment(("torch", "torchjd"))}
            results.write(arguments.out / file_name(problem.name), whole)
    report.main([str(arguments.out)])
    plot.main([str(arguments.out)])


def file_name(problem: str) -> str:
    """Return the name of a problem's file."""
    return re.sub(r"[^a-z0-9.]+", "-", problem.lower()).strip("-") + ".json"


if __name__ == "__main__":
    main()
