"""Which file of mgrad may import what, and which may know the optimizer. The source is read, nothing is imported."""

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mgrad"

# Every file of mgrad → what it may import of mgrad. A new file needs a line here.
ALLOWED: dict[str, list[str]] = {
    "__init__.py": ["*"],
    "less_forgetting.py": [
        "lagrangian",
        "losses",
        "jacobian",
        "gathering",
        "one_pass",
        "direction",
        "anchor",
        "starts",
        "decrease",
        "enforcement",
        "groups",
        "metric",
        "noise",
        "options",
        "report",
        "sketch",
        "step_report",
        "storage",
        "values",
    ],
    "gathering.py": ["jacobian", "scaling", "storage"],
    "starts.py": ["anchor", "groups", "storage"],
    "groups.py": ["jacobian"],
    "lagrangian.py": [],
    "losses.py": [],
    "options.py": ["anchor", "decrease", "noise", "storage"],
    "sketch.py": ["jacobian", "losses"],
    "storage.py": ["jacobian"],
    "jacobian/__init__.py": ["jacobian.*"],
    "jacobian/blocks.py": ["compiled"],
    "jacobian/autograd.py": [],
    "jacobian/products.py": ["compiled", "jacobian.blocks", "jacobian.inner"],
    "jacobian/inner.py": ["jacobian.blocks"],
    "jacobian/combination.py": ["compiled", "jacobian.blocks"],
    "compiled.py": ["kernels"],
    "kernels.py": [],
    "one_pass/__init__.py": ["one_pass.*"],
    "one_pass/examples.py": [],
    "one_pass/node_rules.py": [],
    "one_pass/graph.py": ["jacobian", "one_pass.node_rules"],
    "one_pass/known.py": ["one_pass.graph", "one_pass.node_rules"],
    "one_pass/plan.py": ["one_pass.graph", "one_pass.known", "one_pass.node_rules"],
    "one_pass/watch.py": [
        "one_pass.examples",
        "one_pass.graph",
        "one_pass.known",
        "one_pass.node_rules",
        "one_pass.plan",
    ],
    "one_pass/together.py": ["jacobian", "one_pass.examples", "one_pass.graph", "one_pass.node_rules", "one_pass.plan"],
    "one_pass/passes.py": ["jacobian", "one_pass.*"],
    "direction.py": ["decrease", "stationarity", "solvers", "report", "values"],
    "report.py": ["pending", "solvers"],
    "step_report.py": ["pending", "solvers"],
    "pending.py": ["solvers"],
    "enforcement.py": ["jacobian", "step_report", "solvers", "values"],
    "metric.py": ["groups", "jacobian", "values"],
    "noise.py": ["jacobian", "values"],
    "decrease.py": ["stationarity", "solvers", "values"],
    "stationarity.py": ["solvers", "values"],
    "values.py": ["solvers", "batched"],
    "batched.py": ["solvers"],
    "anchor.py": ["compiled"],
    "fisher.py": ["anchor"],
    "distillation.py": [],
    "replay.py": [],
    "scaling.py": [],
    "problems/__init__.py": ["problems.*"],
    "problems/problem.py": [],
    "problems/quadratics.py": ["problems.problem"],
    "problems/fronts.py": ["problems.problem"],
    "problems/two_valleys.py": ["problems.problem"],
    "problems/regressions.py": ["problems.problem"],
    "problems/network.py": ["problems.problem"],
    "problems/noise.py": ["problems.problem"],
    "solvers/__init__.py": ["solvers.*"],
    "solvers/problem.py": [],
    "solvers/certificate.py": ["solvers.problem"],
    "solvers/domains.py": ["solvers.problem"],
    "solvers/closed_form.py": ["solvers.problem"],
    "solvers/pivoting.py": ["solvers.problem"],
    "solvers/active_set.py": ["solvers.problem"],
    "solvers/frank_wolfe.py": ["solvers.problem"],
}

# Of others, besides the standard library.
LIBRARIES = {"torch", "numpy", "scipy"}
OPTIONAL = {"kernels.py": {"numba", "llvmlite"}}  # only `compiled` imports it, inside a function that can do without
NO_TORCH = "solvers/*"

# Names that only these files may use, as attributes or imports.
RESERVED: dict[str, list[str]] = {
    "optim": ["less_forgetting.py", "metric.py"],
    "param_groups": ["less_forgetting.py"],
    "grad": [
        "less_forgetting.py",
        "jacobian/autograd.py",
        "enforcement.py",
        "fisher.py",
        "one_pass/together.py",
        "one_pass/passes.py",
        "scaling.py",
        "sketch.py",
    ],  # fisher.py means torch.func.grad, one_pass/ torch.autograd.grad
}

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def violations(file: str, source: str) -> list[str]:
    """Name what the source of a file uses and may not."""
    tree = ast.parse(source)
    found = []
    for module in _imports(file, tree):
        top, _, inside = module.partition(".")
        if top == "mgrad":
            if not any(fnmatch(inside, pattern) for pattern in ALLOWED[file]):
                found.append(f"imports {module}")
        elif top == "torch" and fnmatch(file, NO_TORCH):
            found.append("imports torch")
        elif top not in LIBRARIES | OPTIONAL.get(file, set()) and top not in sys.stdlib_module_names:
            found.append(f"imports {top}")
    return found + [f"uses {name}" for name in RESERVED if file not in RESERVED[name] and name in _names(tree)]


def _imports(file: str, tree: ast.Module) -> Iterator[str]:
    """Yield every imported module by its full name, also those imported inside functions."""
    modules = {_module(other) for other in ALLOWED}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ["mgrad", *file.split("/")[:-1]][: -node.level + 1 or None] if node.level else []
            base = ".".join([*package, *filter(None, [node.module])])
            for alias in node.names:  # `from mgrad import jacobian` imports mgrad.jacobian
                full = f"{base}.{alias.name}"
                yield full if full in modules else base


def _module(file: str) -> str:
    return ".".join(["mgrad", *file.removesuffix(".py").removesuffix("__init__").strip("/").split("/")]).rstrip(".")


def _names(tree: ast.Module) -> set[str]:
    """Collect attributes, parts of imports, and the names given to getattr and setattr."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name):
                names.add(name)
            case ast.Call(func=ast.Name(id="getattr" | "setattr"), args=[_, ast.Constant(value=str(name)), *_]):
                names.add(name)
            case ast.Import(names=aliases):
                names.update(part for alias in aliases for part in alias.name.split("."))
            case ast.ImportFrom(module=module, names=aliases):
                names.update((module or "").split("."), (alias.name for alias in aliases))
    return names


def test_every_file_has_its_place() -> None:
    assert sorted(ALLOWED) == FILES


@pytest.mark.parametrize("file", sorted(ALLOWED))
def test_file_imports_what_it_may(file: str) -> None:
    assert violations(file, (PACKAGE / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("jacobian/products.py", "import numpy as np\nfrom torch import Tensor\nimport math", []),
        ("jacobian/products.py", "from mgrad.anchor import Anchor", ["imports mgrad.anchor"]),
        ("jacobian/products.py", "from mgrad import anchor", ["imports mgrad.anchor"]),
        ("jacobian/products.py", "from .. import anchor", ["imports mgrad.anchor"]),
        ("jacobian/products.py", "from ..anchor import Anchor", ["imports mgrad.anchor"]),
        ("jacobian/products.py", "from mgrad import Anchor", ["imports mgrad"]),
        ("jacobian/products.py", "import mgrad", ["imports mgrad"]),
        ("jacobian/products.py", "def f():\n    import mgrad.anchor", ["imports mgrad.anchor"]),
        ("jacobian/products.py", "import pandas as pd", ["imports pandas"]),
        ("report.py", "from mgrad.solvers import Status", []),
        ("report.py", "from mgrad.solvers.problem import Status", ["imports mgrad.solvers.problem"]),
        ("report.py", "from mgrad.solvers import problem", ["imports mgrad.solvers.problem"]),
        ("solvers/problem.py", "import torch.linalg", ["imports torch"]),
        ("solvers/active_set.py", "from .problem import Status", []),
        ("solvers/active_set.py", "from ..anchor import Anchor", ["imports mgrad.anchor"]),
        ("solvers/active_set.py", "from .. import anchor", ["imports mgrad.anchor"]),
        ("jacobian/autograd.py", "parameter.grad = None", []),
        ("jacobian/products.py", "import torch.optim", ["uses optim"]),
        ("jacobian/products.py", "from torch import optim", ["uses optim"]),
        ("jacobian/products.py", "from torch.optim import SGD", ["uses optim"]),
        ("jacobian/products.py", "import torch\nx: torch.optim.SGD", ["uses optim"]),
        ("jacobian/products.py", "optimizer.param_groups[0]", ["uses param_groups"]),
        ("jacobian/products.py", "getattr(optimizer, 'param_groups')", ["uses param_groups"]),
        ("anchor.py", "parameter.grad += 1", ["uses grad"]),
        ("anchor.py", "setattr(parameter, 'grad', None)", ["uses grad"]),
    ],
)
def test_checker_finds_what_is_forbidden(file: str, source: str, expected: list[str]) -> None:
    assert violations(file, source) == expected
