"""Which parts of the package may know which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mriinv

PACKAGE = Path(mriinv.__file__).parent
# whoever needs a part loads all that it imports
KNOWN = {
    "numerics": ("mriinv.numerics.", "mriinv.core.types", "mriinv.errors"),
    "core": ("mriinv.core.", "mriinv.numerics.", "mriinv.errors"),
    "data": ("mriinv.data.", "mriinv.core.", "mriinv.numerics.", "mriinv.errors", "mriinv.files", "mriinv.metrics"),
}


def imported(path: Path) -> list[str]:
    """Return the modules of the package that a file imports when it is run, those for type checkers left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    ignored = {one for node in typing for one in ast.walk(node)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node not in ignored]
    return [node.module for node in found if node.module and node.module.split(".")[0] == "mriinv"]


# readers of plug-ins are found where a file is opened
MORE = {"readers/__init__.py": ("mriinv.registry", "mriinv.discovery")}


@pytest.mark.parametrize("part", KNOWN)
def test_the_inner_layers_do_not_know_the_outer_ones(part: str) -> None:
    files = sorted((PACKAGE / part).rglob("*.py"))
    assert len(files) > 5
    for file in files:
        name = file.relative_to(PACKAGE / part).as_posix()
        for module in imported(file):
            assert module.startswith((*KNOWN[part], *MORE.get(name, ()))), f"{part}/{name} imports {module}"
