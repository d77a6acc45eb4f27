"""Flags: all explained, none abbreviated, bad values refused in a line that says what is valid."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from running import ROOT, SCRIPTS, SEED

from utils import cli

NAMES = ("train_cifar10.py", "test_cifar10.py", "inference.py", "table1.py")

SEGMENTATION = sorted((ROOT / "experiments" / "segmentation").glob("t*.py"))

PUBLISHED = """
python3 train_cifar10.py -net "vgg16" -dataset "cifar10" -epochs 200 -save_weights -gpu
python3 train_cifar10.py -net "vgg16" -dataset "cifar10" -epochs 200 -permute -save_weights -gpu
python3 test_cifar10.py -net "vgg16" -dataset "cifar10" -b 64 -seed 1312 -weights PATH
python3 test_cifar10.py -net "vgg16_permuted" -dataset "cifar10" -permute -b 64 -seed 1312 \
-weights PATH
python3 inference.py -net "vgg16" -weights PATH -image PATH
python3 inference.py -net "vgg16_permuted" -permute -weights PATH -image PATH
"""


class Parsed(Exception):
    """Raised in the place of going on, once a command line has been accepted."""


@pytest.fixture
def parser_of(script, monkeypatch):
    """``parser_of(name)``: the parser that a script builds."""

    def get(name: str) -> cli.Parser:
        found = []

        def keep(parser, *args):
            found.append(parser)
            raise Parsed

        with monkeypatch.context() as patch, pytest.raises(Parsed):
            patch.setattr(cli.Parser, "parse_args", keep)
            script(name)
        return found[0]

    return get


def commands_in(text: str) -> list[list[str]]:
    """The command lines of our scripts in a text, as words."""
    joined = re.sub(r"\\+\n\s*", "", text)
    found = re.findall(r"^\s*(?:\$ )?python3? (\S+\.py.*)$", joined, re.MULTILINE)
    words = [shlex.split(line, comments=True) for line in found]
    return [w for w in words if Path(w[0]).name in NAMES]


@pytest.mark.parametrize("name", [*NAMES, *SEGMENTATION], ids=lambda name: Path(name).name)
def test_every_flag_is_explained_with_its_default(parser_of, name):
    parser = parser_of(name)
    # one sentence stands for the recipe's flags, and a switch that is not given is off
    clear = {
        a
        for g in parser._action_groups
        if "default" in (g.description or "")
        for a in g._group_actions
    }
    clear |= {action for action in parser._actions if action.default is False}
    for action in parser._actions:
        flag = action.option_strings[-1]
        assert action.help, flag
        explained = parser._get_formatter()._expand_help(action)
        optional = not action.required and flag != "--help"
        states_default = re.search(r"default|published: ", explained)
        assert not optional or states_default or action in clear, f"{flag}: {explained}"
        assert flag == "--help" or re.fullmatch(r"-[a-z_0-9]+", flag), flag


@pytest.mark.parametrize("name", [*NAMES, *SEGMENTATION], ids=lambda name: Path(name).name)
def test_the_help_fits_two_screens(parser_of, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    assert len(parser_of(name).format_help().splitlines()) <= 2 * 56


def test_published_and_documented_commands_are_accepted(script, monkeypatch):
    """Those of the paper's repository, of the README and of the scripts' own headers."""
    readme = ROOT / "README.md"
    texts = [PUBLISHED, *(path.read_text().split('"""')[1] for path in SCRIPTS.glob("*.py"))]
    texts += [readme.read_text()] if readme.exists() else []
    commands = [words for text in texts for words in commands_in(text)]
    assert len(commands) >= 6 + len(NAMES)

    real = cli.Parser.parse_args

    def accept(parser, *args):
        real(parser, *args)
        raise Parsed

    monkeypatch.setattr(cli.Parser, "parse_args", accept)
    for name, *words in commands:
        with pytest.raises(Parsed):
            script(Path(name).name, *words)


IMAGE = ("-image", "PATH")
BAD_VALUES = [
    ("train_cifar10.py", ("-net", "vgg61"), "vgg61", "vgg16"),
    ("test_cifar10.py", ("-net", "vgg61"), "vgg61", "_permuted appended"),
    ("train_cifar10.py", ("-dataset", "mnist"), "mnist", "cifar100"),
    ("inference.py", ("-dataset", "mnist", *IMAGE), "mnist", "cifar10"),
    ("train_cifar10.py", ("-preset", "faster"), "faster", "published"),
    ("train_cifar10.py", ("-epochs", "0"), "'0'", "1.."),
    ("train_cifar10.py", ("-epochs", "-3"), "'-3'", "1.."),
    ("train_cifar10.py", ("-epochs", "1e2"), "'1e2'", "whole number"),
    ("train_cifar10.py", ("-b", "0"), "'0'", "1.."),
    ("test_cifar10.py", ("-b", "-64"), "'-64'", "1.."),
    ("test_cifar10.py", ("-b", "1" + "0" * 400), "'1000", "1.."),
    ("train_cifar10.py", ("-lr", "0"), "'0'", "above 0"),
    ("train_cifar10.py", ("-lr", "-0.1"), "'-0.1'", "above 0"),
    ("train_cifar10.py", ("-lr", "nan"), "'nan'", "above 0"),
    ("train_cifar10.py", ("-lr", "inf"), "'inf'", "above 0"),
    ("train_cifar10.py", ("-warm", "-1"), "'-1'", "at least 0"),
    ("train_cifar10.py", ("-label_smoothing", "1"), "'1'", "[0, 1)"),
    ("train_cifar10.py", ("-amp", "maybe"), "'maybe'", "'auto', 'on', 'off'"),
    ("test_cifar10.py", ("-amp", "maybe"), "'maybe'", "'auto', 'on', 'off'"),
    ("train_cifar10.py", ("-nesterov", "maybe"), "'maybe'", "on or off"),
    ("train_cifar10.py", ("-train_seed", "1" + "0" * 30), "'1000", "0.."),
    ("train_cifar10.py", ("-seed", "-1"), "'-1'", "0..4294967295"),
    ("test_cifar10.py", ("-seed", "4294967296"), "'4294967296'", "0..4294967295"),
    ("inference.py", ("-seed", "9" * 5000, *IMAGE), "'9999", "0..4294967295"),
    ("test_cifar10.py", ("-wrong_key",), "-wrong_key", "-permute"),
    ("train_cifar10.py", ("-weights", "PATH"), "-weights", "-load_weights"),
    ("inference.py", (), "-image", "required"),
    ("test_cifar10.py", ("-backend", "cuda"), "'cuda'", "gather"),
    ("train_cifar10.py", ("-backend", "deform"), "-net vgg16", "keyed"),
    ("test_cifar10.py", ("-backend", "triton"), "triton", "-gpu"),
    ("table1.py", ("-backend", "triton", "-out_dir", "x"), "triton", "-gpu"),
    ("inference.py", ("-permute", "-scrambled", *IMAGE), "-scrambled", "one"),
    ("table1.py", ("-net", "vgg16_permuted", "-out_dir", "x"), "vgg16_permuted", "vgg16"),
    ("train_cifar10.py", ("a\nb",), "a b", "-h"),
    ("train_cifar10.py", ("-crop", "2147483647"), "'2147483647'", "0..10000"),
    ("train_cifar10.py", ("-rotation", "1e300"), "'1e300'", "[0, 180]"),
    ("train_cifar10.py", ("-gamma", "1e300"), "'1e300'", "(0, 1]"),
    ("train_cifar10.py", ("-milestones", "0.6,0.3"), "'0.6,0.3'", "rising"),
    ("train_cifar10.py", ("-milestones", "0.6,1"), "'0.6,1'", "rising"),
    ("train_cifar10.py", ("-sizes", "32,16"), "'32,16'", "rising"),
    ("train_cifar10.py", ("-sizes", "0,32"), "'0'", "1..10000"),
    ("train_cifar10.py", ("-depth_kept", "0"), "'0'", "(0, 1]"),
    ("train_cifar10.py", ("-depth_kept", "0.8", "-compile"), "0.8", "-compile off"),
    ("train_cifar10.py", ("-image_size", "1000000"), "'1000000'", "1..10000"),
    ("train_cifar10.py", ("-resume", ""), "''", "latest"),
    ("train_cifar10.py", ("-nesterov", "-momentum", "0"), "-nesterov", "above 0"),
    ("train_cifar10.py", ("-preset", "fast", "-schedule", "multistep"), "multistep", "0.3,0.6"),
    (
        "train_cifar10.py",
        ("-schedule", "onecycle", "-warm", "300"),
        "linear schedule",
        "200 epochs",
    ),
    ("train_cifar10.py", ("-epochs", "1", "-warm", "3"), "multistep schedule", "1 epochs"),
    ("train_cifar10.py", ("-preset", "preresnet", "-muon_lr", "0.1"), "-muon_lr", "muon"),
    ("train_cifar10.py", ("-preset", "fast", "-gamma", "0.1"), "-gamma", "multistep"),
    ("table1.py", ("-milestones", "0.5", "-out_dir", "x"), "-milestones", "multistep"),
    ("train_cifar10.py", ("-init", "whiten", "-load_weights"), "-init whiten", "fresh"),
    ("table1.py", ("-init", "whiten", "-out_dir", "x"), "-init whiten", "fresh"),
    ("train_cifar10.py", ("-net", "vgg16_permuted"), "vgg16_permuted", "-permute"),
    ("test_cifar10.py", ("-net", "vgg16_permuted", "-seed", "1"), "vgg16_permuted", "-permute"),
    ("inference.py", ("-net", "vgg16_permuted", *IMAGE), "vgg16_permuted", "-permute"),
    ("train_cifar10.py", ("-key", "FILE"), "-key", "-permute"),
    ("test_cifar10.py", ("-key", "FILE"), "-key", "-permute"),
    ("inference.py", ("-key", "FILE", *IMAGE), "-key", "-permute"),
    ("scramble.py", ("scramble", "-key", "k", "-size", "60000"), "'60000'", "1..10000"),
]


def test_bad_values_are_refused(script, refused):
    for name, words, received, valid in BAD_VALUES:
        line = refused(script(name, *words))
        assert received in line and valid in line, (words, line)
        assert len(line) < 1000


def test_a_scrambled_picture_needs_its_key(script, refused, weights):
    """The weights' folder could hold it; that of bare weights does not."""
    line = refused(script("inference.py", "-scrambled", "-weights", weights, *IMAGE))
    assert "-scrambled" in line and "-key or -seed" in line


def test_compiling_needs_a_compiler(script, refused, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "-compile needs a C++ compiler" in refused(script("train_cifar10.py", "-compile"))


def test_flags_are_not_abbreviated(script, refused):
    """``-see 1312`` as ``-seed`` would put the key into the record of the run."""
    for words in (["-see", "1312"], ["-s", "1312"], ["-weight", "PATH"], ["-per"]):
        assert words[0] in refused(script("test_cifar10.py", *words))


def test_the_key_is_not_repeated_in_an_error(script, refused, tmp_path):
    for words in (["-bogus"], ["-wrong_key"], ["-key", "FILE"], ["-data_dir", tmp_path / "none"]):
        line = refused(script("test_cifar10.py", "-seed", SEED, *words))
        assert str(SEED) not in line


@pytest.mark.parametrize("ask", [lambda: torch.empty(2**60), lambda: bytearray(2**60)])
def test_too_little_memory_is_one_line(capsys, ask):
    with pytest.raises(SystemExit) as ended:
        cli.run(ask)
    line = capsys.readouterr().err
    assert ended.value.code == 2 and "out of memory" in line and line.count("\n") == 1


def test_other_errors_of_torch_are_shown_whole():
    with pytest.raises(RuntimeError, match="shape"):
        cli.run(lambda: torch.zeros(2, 3).reshape(7))


def test_a_gpu_that_is_not_there(script, refused, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    common = ("-gpu", "-data_dir", tmp_path)
    for name, words in (
        ("train_cifar10.py", common),
        ("test_cifar10.py", common),
        ("inference.py", ("-gpu", "-image", tmp_path)),
        ("table1.py", (*common, "-out_dir", tmp_path)),
    ):
        assert "-gpu" in refused(script(name, *words))
