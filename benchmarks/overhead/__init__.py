"""What a less-forgetting step costs beside a plain one: `python -m benchmarks.overhead`."""
