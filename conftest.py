"""Every example in a docstring of mgrad and every Python block of README.md and docs/ is a test."""

import os
from doctest import ELLIPSIS
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the device of `make test-gpu`."""
    parser.addoption(
        "--device", help="where tests marked any_device run: cuda, cuda:1, …; none: the host alone is seen"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs where none is asked for: frameworks would take one by themselves."""
    if config.getoption("--device") is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _seed(namespace: dict[str, Any]) -> None:
    """Start every file with the same random numbers."""
    torch.manual_seed(0)


def _enter(namespace: dict[str, Any]) -> None:
    """Start a page in a folder of its own: recipes write checkpoints."""
    _seed(namespace)
    namespace["_home"], namespace["_folder"] = Path.cwd(), TemporaryDirectory()
    os.chdir(namespace["_folder"].name)


def _leave(namespace: dict[str, Any]) -> None:
    """Go back, and remove the folder."""
    os.chdir(namespace["_home"])
    namespace["_folder"].cleanup()


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
    setup=_enter,
    teardown=_leave,
)
pytest_collect_file = (_docstrings + _pages).pytest()
