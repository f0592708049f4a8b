"""The command line: `python -m benchmarks.noise`."""

from benchmarks import command
from benchmarks.noise import report, study

main = command.study("noise", study.__doc__, study.measure, report.page, report.FILE, steps=300, seeds=3)

if __name__ == "__main__":
    main(None)
