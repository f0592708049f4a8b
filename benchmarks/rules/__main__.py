"""The command line: `python -m benchmarks.rules`."""

from benchmarks import command
from benchmarks.rules import report, study

main = command.study("rules", study.__doc__, study.measure, report.page, report.FILE, steps=600, seeds=5)

if __name__ == "__main__":
    main(None)
