"""The README tells the truth: its links lead somewhere, its commands parse, its code runs.

The commands behind its ``make demo`` are held to the same.
"""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
LINKS = re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT)
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def _commands():
    """Every command of the README's shell blocks, with the folder that it is given in."""
    for language, block in BLOCKS:
        folder = ROOT
        for line in block.splitlines() if language == "sh" else ():
            words = shlex.split(line, comments=True)
            if words[:1] == ["cd"]:
                folder = folder / words[1]
            elif words:
                yield pytest.param(folder, words, id=" ".join(words))


def _commands_of(program, pattern):
    """The commands that call ``program`` on something that matches ``pattern``."""
    cases = [case for case in _commands() if case.values[1][0] == program]
    return [case for case in cases if re.search(pattern, case.values[1][1])]


@pytest.mark.parametrize("link", [link for link in LINKS if "://" not in link])
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


@pytest.mark.parametrize("name", re.findall(r"`([\w./]+/[\w./]*)`", TEXT))
def test_paths_exist(name):
    written_by_use = name.split("/")[0] in ("data", "runs", "demo", "train", "test")
    assert written_by_use or (ROOT / name).exists()


def _parse(script, flags, monkeypatch):
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.delitem(sys.modules, "conf", raising=False)  # each folder of scripts has its own
    monkeypatch.setattr(sys, "argv", [script.name, *flags])
    spec = importlib.util.spec_from_file_location(f"readme_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop("conf", None)
    return module.parse_args()  # exits on an unknown flag or a value out of range


@pytest.mark.parametrize(("folder", "words"), _commands_of("python3", r"\.py$"))
def test_scripts_accept_the_commands(folder, words, monkeypatch):
    _parse(folder / words[1], words[2:], monkeypatch)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_scripts_accept_the_commands_of_the_demo(monkeypatch):
    recipe = subprocess.run(
        ["make", "--dry-run", "demo"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    commands = [words for words in map(shlex.split, recipe.splitlines()) if ".py" in str(words)]
    assert len(commands) == 5
    for _, script, *flags in commands:
        args = _parse(ROOT / script, flags, monkeypatch)
        assert "image" not in args or (ROOT / args.image).exists()


@pytest.mark.parametrize(("folder", "words"), _commands_of("make", ""))
def test_targets_exist(folder, words):
    assert re.search(rf"^{words[1]}:", (folder / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_code_runs(code):
    exec(compile(code, "README.md", "exec"), {})
