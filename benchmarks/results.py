"""Results of benchmarks as JSON files: what they were measured on, and how they are written."""

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

WIDTH = 400  # one record of the timing on a line


def environment(packages: Sequence[str] = ("numpy", "scipy", "torch")) -> dict[str, Any]:
    """Return the versions of Python and of the packages that are there, and the machine."""
    versions = {package: version(package) for package in packages if find_spec(package) is not None}
    return {
        "versions": {"python": platform.python_version(), **versions},
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }


def read(path: Path) -> dict[str, Any]:
    """Return the record of a file; an empty one if there is no such file."""
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return record


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record, each part of it on one line if it fits."""
    put(path, _text(record, "") + "\n")


def put(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def _text(value: Any, indent: str) -> str:
    """Return a value as JSON."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) <= WIDTH or not isinstance(value, (dict, list)):
        return line
    deeper = indent + " "
    if isinstance(value, list):
        parts, (start, end) = [_text(part, deeper) for part in value], "[]"
    else:
        start, end = "{}"
        parts = [f"{json.dumps(key, ensure_ascii=False)}: {_text(part, deeper)}" for key, part in value.items()]
    return f"{start}\n{deeper}" + f",\n{deeper}".join(parts) + f"\n{indent}{end}"


def _processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
