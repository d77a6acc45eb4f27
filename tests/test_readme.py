"""The pages of documentation tell the truth: links lead somewhere, commands parse, code runs.

So does what they show of the results, and the commands behind ``make demo`` are held to the same.
"""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import readme

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("checkpoints", "experiments", "models", "operators", "utils")
PAGES = [ROOT / "README.md"]
PAGES += sorted(page for room in ROOMS for page in (ROOT / room).rglob("README.md"))


def _on_pages(pattern, flags=0):
    """What matches on each page, with the page."""
    cases = []
    for page in PAGES:
        for found in re.findall(pattern, page.read_text(), flags):
            name = f"{page.relative_to(ROOT)}: {found if isinstance(found, str) else found[1]}"
            cases.append(pytest.param(page, found, id=name[:100]))
    return cases


def _blocks(wanted):
    """The code of every page's blocks of a language."""
    cases = _on_pages(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [
        pytest.param(case.values[0], case.values[1][1], id=case.id)
        for case in cases
        if case.values[1][0] == wanted
    ]


def _commands(program, pattern=""):
    """Every command that calls ``program`` on something that matches, with its folder."""
    cases = []
    for case in _blocks("sh"):
        folder = ROOT
        for line in case.values[1].splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["cd"]:
                folder = folder / words[1]
            elif words[:1] == [program] and re.search(pattern, words[1]):
                name = f"{case.values[0].relative_to(ROOT)}: {line}"
                cases.append(pytest.param(folder, words, id=name))
    return cases


SCRIPT_CALLS = _commands("python3", r"\.py$")


def test_there_is_a_page_for_every_topic():
    pages = {str(page.parent.relative_to(ROOT)) for page in PAGES}
    names = ("attacks", "benchmark", "classification", "keying", "segmentation")
    tasks = {f"experiments/{name}" for name in names}
    assert pages == {".", "checkpoints", "models", "operators", *tasks}


def test_the_first_page_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert tables and all(len(table.splitlines()) - 2 <= 12 for table in tables)


@pytest.mark.parametrize("page", readme.PAGES)
def test_pages_show_what_was_measured(page):
    assert (ROOT / page).read_text() == readme.up_to_date(page), "run make readme"


def test_every_block_that_is_marked_is_made():
    for page in PAGES:
        marked = set(re.findall(r"<!-- (\w+) -->", page.read_text()))
        assert marked == set(readme.PAGES.get(str(page.relative_to(ROOT)), ()))


@pytest.mark.parametrize(("page", "link"), _on_pages(r"\]\(([^)#]+)[^)]*\)"))
def test_links_lead_somewhere(page, link):
    assert "://" in link or (page.parent / link).exists()


@pytest.mark.parametrize(("page", "name"), _on_pages(r"`([\w./]+/[\w./]*)`"))
def test_paths_exist(page, name):
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


@pytest.mark.parametrize(("folder", "words"), SCRIPT_CALLS)
def test_scripts_accept_the_commands(folder, words, monkeypatch):
    _parse(folder / words[1], words[2:], monkeypatch)


@pytest.mark.parametrize(("folder", "words"), _commands("torchrun"))
def test_scripts_accept_the_commands_of_torchrun(folder, words, monkeypatch):
    script = next(i for i, word in enumerate(words) if word.endswith(".py"))
    _parse(folder / words[script], words[script + 1 :], monkeypatch)


@pytest.mark.parametrize(("folder", "words"), SCRIPT_CALLS)
def test_paths_in_commands_exist(folder, words):
    """``PATH``, ``my.key`` and their kind are the reader's own."""
    paths = [re.sub(r"\.py:\w+$", ".py", word) for word in words if "/" in word]
    assert all((folder / path).exists() for path in paths)


def test_commands_of_results_hide_nothing():
    for page in PAGES:
        assert "***" not in page.read_text()


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


@pytest.mark.parametrize(("folder", "words"), _commands("make"))
def test_targets_exist(folder, words):
    assert re.search(rf"^{words[1]}:", (folder / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("page", "code"), _blocks("python"))
def test_code_runs(page, code):
    exec(compile(code, page, "exec"), {})


def test_the_paper_is_cited_in_full():
    facts = ("Fabian", "Jhon", "Henry", "5980", "5984", "10.1109/ICASSP48485.2024.10446218")
    for name in ("README.md", "CITATION.cff"):
        text = (ROOT / name).read_text()
        assert all(fact in text for fact in facts)
