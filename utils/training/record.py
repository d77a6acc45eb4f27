"""The record of a run, ``run.json``: how it begins, and how it ends."""

from dataclasses import asdict
from datetime import datetime, timezone

import torch
from torch import nn

from models import public_name
from operators import BlockCipher, ImageScrambler, PerImageScrambler
from utils.io import checkpoint
from utils.io.run_record import environment, public_command
from utils.training.options import RunOptions
from utils.training.recipe import Recipe
from utils.training.task import Splits


def new_record(
    options: RunOptions,
    recipe: Recipe,
    permuting: ImageScrambler | BlockCipher | None,
    per_image: PerImageScrambler | None,
    net: nn.Module,
    splits: Splits,
) -> dict:
    """The record of a run that begins."""
    return {
        "command": public_command(),
        "net": public_name(options.net),
        "dataset": options.dataset,
        "permute": options.permute,
        "per_image": per_image is not None,
        "cipher": None if permuting is None else permuting.cipher,
        "key": None if permuting is None else permuting.fingerprint,
        "train_seed": options.train_seed,
        "recipe": asdict(recipe),
        "select": options.select,
        "val_fraction": splits.held_out,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "images": {"train": len(splits.train), "test": len(splits.test)},
        "parameters": sum(p.numel() for p in net.parameters()),
        "epochs": [],
        "resumed": [],
        **environment(),
    }


def results(scores: dict[str, object], selected: bool, net: nn.Module) -> dict:
    """What the record of a run gets at its end.

    Args:
        scores: of the test.
        selected: whether its weights are those of the best epoch.
        net: the network that was tested.
    """
    return {
        **{f"test_{name}": value for name, value in scores.items()},
        "weights": checkpoint.BEST if selected else checkpoint.LAST,
        "weights_sha256": checkpoint.digest(net.state_dict()),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
