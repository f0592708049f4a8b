"""Every example in a docstring of mgrad and every Python block of README.md and docs/ is a test."""

from doctest import ELLIPSIS
from typing import Any

import torch
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser


def _seed(namespace: dict[str, Any]) -> None:
    """Start every file with the same random numbers."""
    torch.manual_seed(0)


_docstrings = Sybil(
    parsers=[DocTestParser(optionflags=ELLIPSIS)],
    patterns=["mgrad/*.py", "mgrad/**/*.py"],
    document_types={".py": PythonDocStringDocument},
    setup=_seed,
)
# The blocks of a page share their variables; `<!--- skip: next -->` leaves one out.
_pages = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS), SkipParser()],
    patterns=["README.md", "docs/*.md"],
    setup=_seed,
)
pytest_collect_file = (_docstrings + _pages).pytest()
