"""Recorded commands as ones that can be pasted at the repository's root.

A record masks the key and shows each path by its last part (``utils.io.run_record``). What stood in
their place is put back here: the published seed, which is no secret, and paths of this repository.
Old spellings give way to those of today.
"""

import shlex

from operators import ImageScrambler
from utils.data.datasets import DATASETS
from utils.data.segmentation import MASK_DATASETS
from utils.runtime.errors import UserError
from utils.training.recipe import OLD_SCHEDULES

PUBLISHED_SEED = 1312
MACHINE_FLAGS = ("-data_dir", "-checkpoint_dir", "-log_dir")  # their defaults do


def pasteable(command: str, script: str, processes: int = 1, **values: str | None) -> str:
    """A command that does what a recorded one did.

    Args:
        command: as recorded, quoted for a shell.
        script: path of the script from the repository's root; scripts may have moved since.
        processes: how many ran it, as torchrun's.
        values: by the name of a flag, what takes the place of the recorded value; None leaves the
            flag out. A seed that is masked is the published one.
    """
    shown_for = dict.fromkeys(MACHINE_FLAGS) | {"-seed": str(PUBLISHED_SEED)}
    shown_for |= {f"-{flag}": value for flag, value in values.items()}
    launcher = ["python3"] if processes == 1 else ["torchrun", f"--nproc_per_node={processes}"]
    shown = [*launcher, script]
    recorded = shlex.split(command.replace("=", " "))[1:]
    words = iter(OLD_SCHEDULES.get(word, word) for word in recorded)
    for word in words:
        if word not in shown_for:
            shown.append(shlex.quote(word))
            continue
        next(words)
        if shown_for[word] is not None:
            shown += [word, shown_for[word]]
    return " ".join(shown)


def check_seed(fingerprint: str, dataset: str) -> None:
    """Refuse results that were not made with the published seed, which their commands would name.

    Raises:
        UserError: naming both fingerprints.
    """
    image_size = (DATASETS | MASK_DATASETS)[dataset].image_size
    published = ImageScrambler(image_size, seed=PUBLISHED_SEED).fingerprint
    if fingerprint != published:
        raise UserError(f"key {fingerprint} is not seed {PUBLISHED_SEED}, whose key is {published}")


def shell(*commands: str) -> str:
    """Commands as a block of Markdown; ends with a newline."""
    return "\n".join(["```sh", *commands, "```", ""])
