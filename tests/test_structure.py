"""Imports go one way: experiments > utils > models > operators, and so do the rooms of utils."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("experiments", "utils", "models", "operators")
ROOMS = ("cli", "training", "inference", "data", "io", "runtime")
FILES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def imported(path):
    """Every module that a file imports, wherever in it, with the names that it takes from them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from ([*node.module.split("."), alias.name] for alias in node.names)


def floor_of(parts):
    """Where a module stands, counted from the top; None outside of the project."""
    return FLOORS.index(parts[0]) if parts[0] in FLOORS else None


def room_of(parts):
    """Which room of utils a module is in, counted from the top; None elsewhere."""
    return ROOMS.index(parts[1]) if parts[0] == "utils" and parts[1:2] != ["__init__"] else None


def arrows_up(path, parts, importing):
    """The imports of a file that lead to a higher floor, or to a higher room of utils."""
    for module in importing:
        floor = floor_of(module)
        if floor is not None and floor < floor_of(parts):
            yield ".".join(module)
        elif floor is not None and floor == floor_of(parts) and parts[0] == "utils":
            assert module[1] in ROOMS, f"{path}: {'.'.join(module)} is in no room of utils"
            if room_of(parts) is not None and room_of(module) < room_of(parts):
                yield ".".join(module)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_leads_upwards(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    assert not list(arrows_up(path, parts, imported(path)))


@pytest.mark.parametrize(
    ("parts", "module", "up"),
    [
        (["utils", "io", "checkpoint"], ["utils", "data", "datasets", "X"], True),
        (["utils", "io", "checkpoint"], ["utils", "runtime", "errors", "X"], False),
        (["utils", "io", "checkpoint"], ["experiments", "conf"], True),
        (["operators", "gather"], ["models"], True),
        (["models", "vgg"], ["operators", "offset"], False),
        (["operators", "gather"], ["torch", "nn"], False),
    ],
)
def test_an_arrow_that_leads_upwards_is_seen(parts, module, up):
    assert bool(list(arrows_up(Path("x"), parts, [module]))) == up


def test_utils_has_these_rooms_and_no_file_beside_them():
    assert sorted(p.name for p in (ROOT / "utils").iterdir() if p.suffix == ".py") == [
        "__init__.py"
    ]
    rooms = {p.parent.name for p in (ROOT / "utils").glob("*/__init__.py")}
    assert rooms == set(ROOMS)


def test_private_names_of_torch_are_imported_by_keying_alone():
    """A rename of theirs must not stop a plain network from training."""
    code = (
        "import sys, models, utils.training.run; models.create_model('vgg16'); "
        "sys.exit(any(n.startswith('models.keying.rules') for n in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    for path in FILES:
        private = [".".join(module) for module in imported(path) if is_private(module)]
        assert not private or path.is_relative_to(ROOT / "models" / "keying"), (path, private)


def is_private(module):
    return module[0] in ("torch", "torchvision") and any(part[0] == "_" for part in module[1:])
