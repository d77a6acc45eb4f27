"""Recorded commands, as they are shown to be pasted."""

import pytest

from experiments.lib.commands import check_seed, pasteable
from operators import ImageScrambler
from utils.runtime.errors import UserError

SCRIPT = "experiments/classification/table1.py"


def test_the_seed_and_paths_of_this_repository_are_put_in():
    recorded = (
        "table1.py -net vgg16 -data_dir cifar10 -seed *** -weights last.pt -log_dir=logs -gpu"
    )
    assert pasteable(recorded, SCRIPT, weights="w.pt") == (
        f"python3 {SCRIPT} -net vgg16 -seed 1312 -weights w.pt -gpu"
    )


def test_quoted_words_stay_quoted():
    recorded = "table2.py -rows 'LE, adapted' -seed ***"
    assert pasteable(recorded, SCRIPT) == f"python3 {SCRIPT} -rows 'LE, adapted' -seed 1312"


def test_flags_can_be_left_out():
    assert pasteable("a.py -seed *** -b 2", SCRIPT, seed=None) == f"python3 {SCRIPT} -b 2"


def test_several_processes_are_those_of_torchrun():
    shown = pasteable("a.py -b 2", SCRIPT, 3)
    assert shown == f"torchrun --nproc_per_node=3 {SCRIPT} -b 2"


def test_old_spellings_give_way():
    shown = pasteable("a.py -schedule onecycle -warm 2", SCRIPT)
    assert shown == f"python3 {SCRIPT} -schedule linear -warm 2"


def test_a_key_that_is_not_the_published_seed_is_not_called_so():
    check_seed(ImageScrambler(32, seed=1312).fingerprint, "cifar10")
    with pytest.raises(UserError, match="is not seed 1312"):
        check_seed(ImageScrambler(32, seed=1313).fingerprint, "cifar10")
