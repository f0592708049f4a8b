"""The command line."""

from benchmarks.overhead.cli import main

main()
