"""A tiny network, a tiny folder of images, and real training runs of them in child processes.

Children come from a fork server that has imported torch already, so that each starts in well under
a second; what they run is ``utils.training.run.train`` behind ``utils.cli.run``, as in the scripts.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from models import registry
from models.preresnet import PreResNet
from models.stochastic_depth import ResidualBlock
from operators import PerImageScrambler
from utils import cli
from utils.runtime import distributed
from utils.training.options import RunOptions
from utils.training.recipe import Recipe
from utils.training.run import train
from utils.training.task import Task
from utils.training.trainer import Trainer

SIZE = 8
MASK_SIZE = (10, 14)
CLASSES = ("cat", "dog", "eel")
RECIPE = Recipe(
    epochs=3,
    batch_size=8,
    lr=0.05,
    warm=1,
    optimizer="muon",
    schedule="cosine",
    label_smoothing=0.1,
    ema=0.9,
    clip=1.0,
    crop=1,
    rotation=10.0,
    cutout=3,
)
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["torch", "torchvision", "torch.utils.tensorboard", "tqdm"])


class TinyNet(nn.Sequential):
    """Everything that has a state: convolutions for Muon, batch-norm, dropout."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(72, num_classes),
        )


class PlainNet(nn.Sequential):
    """No layer that looks at other images or draws random numbers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.Flatten(),
            nn.Linear(72, num_classes),
        )


class ScaledBlock(ResidualBlock):
    """A convolution without batch-norm, which a step may skip."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x))


class SkippingNet(nn.Sequential):
    """Blocks that a step may skip, and no layer that looks at other images."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            *(ScaledBlock() for _ in range(4)),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, num_classes),
        )


class LabellingNet(nn.Sequential):
    """Logits for every pixel, through all that has a state."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Conv2d(8, num_classes, 3, padding=1),
        )


class PlainLabellingNet(nn.Sequential):
    """Logits for every pixel, and no layer that looks at other images or draws numbers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, num_classes, 3, padding=1)
        )


def make_masks(root: Path, splits: tuple[str, ...] = ("train", "val", "test")) -> Path:
    """A folder of pictures with masks, of several sizes: 20 to train, 7 for every other split."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    for split in splits:
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i in range(20 if split == "train" else 7):
            height, width = MASK_SIZE[0] + i % 3, MASK_SIZE[1] - i % 2
            mask = rng.integers(0, len(CLASSES), (5, 5)).repeat(3, 0).repeat(4, 1)
            mask = mask[:height, :width].astype(np.uint8)
            pixels = 80 * mask[:, :, None] + rng.integers(0, 90, (*mask.shape, 3))
            mask[0] = 255
            name = f"{i:02}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(root / split / "images" / name)
            Image.fromarray(mask).save(root / split / "masks" / name)
    return root


def make_images(root: Path, per_class: int = 15) -> Path:
    """A folder of images that can be told apart, of several sizes: 45 to train, 12 to test."""
    rng = np.random.default_rng(0)
    for split, count in (("train", per_class), ("test", 4)):
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                shape = (SIZE + i % 3, SIZE + i % 2, 3)
                pixels = rng.integers(0, 150, shape) + 50 * (np.arange(3) == label)
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i:02}.png")
    return root


def options(root: Path, **changes) -> RunOptions:
    """The options of a run on ``root/images`` whose files go to ``root``."""
    run = RunOptions(
        net="tiny",
        dataset="folder",
        data_dir=root / "images",
        train_seed=1,
        save=True,
        checkpoint_dir=root / "checkpoints",
        log_dir=root / "runs",
        image_size=(SIZE, SIZE),
    )
    return replace(run, **changes)


class Child:
    """Trains in a child process, or in a group of them.

    Args:
        run, recipe: what to train.
        world_size: processes of the group.
        stop: signal that the main process sends itself before the step ``stop_at`` (epoch, step).
        per_image: what scrambles each image under a key of its own, or None.
        task: what is learned; None for classification.
    """

    def __init__(
        self,
        run: RunOptions,
        recipe: Recipe = RECIPE,
        world_size: int = 1,
        stop: int = 0,
        stop_at: tuple[int, int] = (0, 0),
        per_image: PerImageScrambler | None = None,
        task: Task | None = None,
    ) -> None:
        self.started = processes.Event()
        # the fork server's are out of pytest's reach
        self._printed, self._stderr = (run.log_dir.with_name(n) for n in ("stdout", "stderr"))
        for file in (self._printed, self._stderr):
            file.write_text("")
        port = _free_port()
        shared = (self.started, self._printed, self._stderr, per_image, task)
        self.processes = [
            processes.Process(
                target=_run,
                args=(run, recipe, rank, world_size, port, stop, stop_at, *shared),
            )
            for rank in range(world_size)
        ]
        for process in self.processes:
            process.start()

    def kill(self, number: int) -> None:
        """Send a signal to the main process, unless it has just ended by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.processes[0].pid, number)

    def wait_for_a_step(self) -> None:
        """Until training takes a step, or has nothing left to do."""
        while self.processes[0].is_alive() and not self.started.wait(0.05):
            pass

    def wait(self) -> list[int]:
        """The exit statuses, negative for a signal that ended the process."""
        for process in self.processes:
            process.join(120)
        return [process.exitcode for process in self.processes]

    @property
    def output(self) -> str:
        """What the processes have written to stdout."""
        return self._printed.read_text()

    @property
    def errors(self) -> str:
        """What the processes have written to stderr."""
        return self._stderr.read_text()


def _run(run, recipe, rank, world_size, port, stop, stop_at, started, *shared):
    printed, stderr, per_image, task = shared
    for number, path in ((1, printed), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    torch.set_num_threads(1)
    registry._PLAIN |= {
        "tiny": TinyNet,
        "plain": PlainNet,
        "skipping": SkippingNet,
        "residual": partial(PreResNet, 8),
        "labelling": LabellingNet,
        "labelling_plain": PlainLabellingNet,
    }
    if world_size > 1:
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {k: str(v) for k, v in group.items()}
    whole = Trainer._step

    def step(trainer, shard, images):
        started.set()
        if (trainer.progress.epoch, trainer.progress.step) == stop_at and stop and rank == 0:
            os.kill(os.getpid(), stop)
        return whole(trainer, shard, images)

    Trainer._step = step
    device = torch.device("cpu")

    def main() -> None:
        with distributed.process_group(device):
            train(run, recipe, per_image and per_image.fixed, device, per_image, task)

    try:
        cli.run(main)
    finally:
        # while an interpreter ends, SIGINT ends it as a signal does: multiprocessing says status 1
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def folders(root: Path, net: str = "tiny") -> list[Path]:
    """The folders of the runs, oldest first."""
    return sorted((root / "checkpoints" / net).glob("*/"))


def record(folder: Path) -> dict:
    """The record of a run."""
    return json.loads((folder / "run.json").read_text())


def metrics(folder: Path) -> list[dict]:
    """The metrics of the epochs, but for the time they took."""
    return [{k: v for k, v in m.items() if k != "seconds"} for m in record(folder)["epochs"]]


STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}
