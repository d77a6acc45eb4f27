"""The training loop: one step at a time, exactly resumable at any of them.

Learning rate, order, augmentation and dropout of a step depend only on the recipe, the seed and
the step's place in the run; everything else is in the checkpoint. A run that was stopped and
resumed therefore ends with the weights of the uninterrupted run, bit for bit on one machine's CPU.

Under ``torchrun`` a step's batch is divided among the processes and its gradient is the mean over
all of its images, so that the loss curve is that of one process up to rounding, except where a
layer looks at the other images of its process (batch-norm without ``sync_bn``) or draws random
numbers (dropout).
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.stochastic_depth import random_depth
from utils.data.augment import EpochPlan, Preprocess, plan_epoch, shrink
from utils.data.datasets import ImageSet
from utils.data.stream import ImageFiles
from utils.runtime import distributed
from utils.runtime.device import amp_is_on, autocast
from utils.runtime.errors import UserError
from utils.runtime.progress import ProgressBar
from utils.runtime.stop import StopSignal, leave
from utils.runtime.streams import derive_seed, generator
from utils.training.optim import Optimizer
from utils.training.recipe import Recipe, lr_factor, side_of_epoch
from utils.training.task import Classification, Task

CHECK_EVERY = 20  # steps between looks at the loss, each of which waits for the device


def _average_floats(decay: float) -> Callable[[list, list, torch.Tensor], None]:
    """The moving average of floating-point state; keys, counters and other integers are copied.

    ``AveragedModel`` calls it with the tensors of one type at a time.
    """
    average = get_ema_multi_avg_fn(decay)

    def update(averaged: list, current: list, updates: torch.Tensor) -> None:
        if averaged[0].is_floating_point():
            average(averaged, current, updates)
        else:
            for ours, theirs in zip(averaged, current, strict=True):
                ours.copy_(theirs)

    return update


@dataclass
class Progress:
    """Where a run stands. ``epoch`` counts finished epochs; the rest is of the current one."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: float = 0  # images, or parts of them
    images: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Shard:
    """This process's shard of a step's batch: the plan of its images, and how many the batch has.

    ``weight`` is 0 for an image that stands in where a batch has too few for every process.
    """

    plan: EpochPlan
    batch: int
    weight: float


class Trainer:
    """Trains one network by one recipe.

    Args:
        net: the network, on ``device``; its memory format is set here. What its ``take_penalty``
            returns, where it has one, is added to the mean loss of each step.
        recipe: how to train.
        data: the training images; moved to ``device`` where they fit.
        preprocess: uint8 batch to network input.
        device: where to train.
        seed: of order, augmentation and dropout.
        save_every: steps after which an epoch is saved in its midst; 0 for never.
        task: what the labels are, how they are learned and what is counted.
    """

    def __init__(
        self,
        net: nn.Module,
        recipe: Recipe,
        data: ImageSet | ImageFiles,
        preprocess: Preprocess,
        device: torch.device,
        seed: int,
        save_every: int = 0,
        task: Task | None = None,
    ) -> None:
        memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        net = net.to(memory_format=memory_format)
        self.net = nn.SyncBatchNorm.convert_sync_batchnorm(net) if recipe.sync_bn else net
        self.recipe, self.seed, self.device, self.save_every = recipe, seed, device, save_every
        self.task = task or Classification()
        self.data, self.labels = data.to(device), data.labels.to(device)
        self.preprocess = preprocess
        self.amp = amp_is_on(recipe.amp, device)
        self.optimizer = Optimizer(self.net, recipe, bfloat16=self.amp)
        self.averaged = None
        if recipe.ema:
            average = _average_floats(recipe.ema)
            self.averaged = AveragedModel(self.net, multi_avg_fn=average, use_buffers=True)
        together = distributed.parallel(self.net, device, whole=recipe.depth_kept == 1)
        self.forward = torch.compile(together) if recipe.compile else together
        self.progress = Progress()
        self.history: list[dict] = []
        self.learning_rate = 0.0

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.labels) / self.recipe.batch_size)

    @property
    def best_net(self) -> nn.Module:
        """The network to evaluate: the averaged one where there is one."""
        return self.net if self.averaged is None else self.averaged.module

    def state(self) -> dict:
        """Everything that ``load_state`` needs to continue; tensors and plain values only."""
        return {
            "recipe": asdict(self.recipe),
            "train_seed": self.seed,
            "model": self.net.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "history": self.history,
        }

    def load_state(self, state: dict) -> None:
        """Continue where ``state`` was taken, under the same recipe and seed."""
        self.net.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self.history = list(state["history"])
        if self.averaged is not None:
            self.averaged.module.load_state_dict(state["averaged"])
            done = self.progress.epoch * self.steps_per_epoch + self.progress.step
            self.averaged.n_averaged.fill_(done)

    def train_epoch(self, stop: StopSignal, save: Callable[[], Path | None]) -> dict:
        """Train to the end of the current epoch; returns and records its metrics.

        Args:
            stop: looked at after every step; within an epoch a signal saves and ends the process.
            save: writes ``state()`` to a checkpoint; returns where, or None if the run keeps none.

        Raises:
            UserError: if the loss or a weight is not finite; ``save`` is then not called.
            SystemExit: after a signal.
        """
        p, steps = self.progress, self.steps_per_epoch
        plan = plan_epoch(len(self.labels), self.recipe, self.seed, p.epoch)
        shards = [self._shard(plan, step) for step in range(p.step, steps)]
        batches = self.data.batches(shard.plan.order for shard in shards)
        self.net.train()
        started = time.perf_counter() - p.seconds
        so_far = [p.loss_sum, p.correct] if distributed.is_main_process() else [0.0, 0.0]
        sums = torch.tensor(so_far, dtype=torch.float64, device=self.device)
        with self._shown() as shown:
            for shard, images in zip(shards, batches, strict=True):
                sums += self._step(shard, images)
                p.step += 1
                p.images += shard.batch
                shown.update(shard.batch)
                within = p.step < steps
                received = stop.received()
                due = self.save_every and p.step % self.save_every == 0
                if p.step % CHECK_EVERY == 0 or due or received or not within:
                    self._take_stock(sums, started)
                    shown.note = (
                        f"loss {p.loss_sum / p.images:.3f}, {p.correct / p.images:.1%} right"
                    )
                saved = save() if within and (due or received) else None
                if within and received:
                    leave(received, saved)
        metrics = {
            "epoch": p.epoch + 1,
            "loss": p.loss_sum / p.images,
            "accuracy": p.correct / p.images,
            "lr": self.learning_rate,
            "seconds": p.seconds,
        }
        self.history.append(metrics)
        self.progress = Progress(epoch=p.epoch + 1)
        return metrics

    def _shard(self, plan: EpochPlan, step: int) -> Shard:
        """Divide the batch of a step evenly among the processes."""
        first = step * self.recipe.batch_size
        batch = min(self.recipe.batch_size, len(self.labels) - first)
        rank, size = distributed.rank(), distributed.world_size()
        begin, end = first + batch * rank // size, first + batch * (rank + 1) // size
        if begin == end:
            return Shard(plan.part(slice(first, first + 1)), batch, weight=0.0)
        return Shard(plan.part(slice(begin, end)), batch, weight=1.0)

    def _shown(self) -> ProgressBar:
        p, epochs = self.progress, self.recipe.epochs
        return ProgressBar(
            f"epoch {p.epoch + 1}/{epochs}",
            len(self.labels),
            done=p.images,
            later=len(self.labels) * (epochs - p.epoch - 1),
            quiet=not distributed.is_main_process(),
        )

    def _step(self, shard: Shard, images: torch.Tensor) -> torch.Tensor:
        """Make one step; returns the sums of loss and of correct answers over the shard, (2,)."""
        p, plan = self.progress, shard.plan
        torch.manual_seed(derive_seed("dropout", self.seed, p.epoch, p.step, distributed.rank()))
        self.learning_rate = self.optimizer.set_lr(
            lr_factor(self.recipe, p.epoch + p.step / self.steps_per_epoch)
        )
        labels = self.labels[plan.order.to(self.device)]
        images, labels = self.task.augment(images.to(self.device), labels, plan, self.recipe)
        inputs = self.preprocess(images)
        if (side := side_of_epoch(self.recipe, p.epoch)) is not None:
            inputs = shrink(inputs, side)
        with autocast(self.device, self.amp), self._depth():
            logits = self.forward(inputs).float()
        loss_sum = shard.weight * self.task.loss_sum(logits, labels, self.recipe)
        if (take_penalty := getattr(self.net, "take_penalty", None)) is not None:
            loss_sum = loss_sum + shard.weight * len(labels) * take_penalty()
        self.optimizer.zero_grad()
        # the processes' gradients are averaged: their number makes that the sum over the batch
        (loss_sum * (distributed.world_size() / shard.batch)).backward()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.optimizer.parameters, self.recipe.clip)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.net)
        correct = shard.weight * self.task.right(logits.detach(), labels)
        return torch.stack([loss_sum.detach().double(), correct.double()])

    def _depth(self) -> AbstractContextManager:
        """Which residual blocks the current step skips, the same in every process."""
        if self.recipe.depth_kept == 1:
            return nullcontext()
        p = self.progress
        draws = generator("depth", self.seed, p.epoch, p.step)
        return random_depth(self.net, self.recipe.depth_kept, draws)

    def _take_stock(self, sums: torch.Tensor, started: float) -> None:
        """Bring ``progress`` up to date, over all processes, and stop if training has diverged."""
        p = self.progress
        p.loss_sum, p.correct = distributed.all_reduce(*sums.tolist())
        p.seconds = time.perf_counter() - started
        norm = float(nn.utils.get_total_norm(self.optimizer.parameters))
        if not (math.isfinite(p.loss_sum) and math.isfinite(norm)):
            muon = f", -muon_lr {self.recipe.muon_lr:g}" if self.recipe.optimizer == "muon" else ""
            raise UserError(
                f"the loss is not finite in epoch {p.epoch + 1}, at or shortly before step "
                f"{p.step}; training stopped, checkpoints are as they were. Try lower rates: "
                f"-lr is {self.recipe.lr:g}{muon}"
            )

    def evaluate(self, data: ImageSet | ImageFiles) -> dict[str, object]:
        """The scores of the network to evaluate on ``data``.

        Each process looks at its shard of the images, every image once.
        """
        distributed.broadcast_buffers(self.best_net)
        mine = data.subset(torch.arange(len(data))[distributed.rank() :: distributed.world_size()])
        quiet = not distributed.is_main_process()
        tally = self.task.tally(self.best_net, self.preprocess, mine, self.device, self.amp, quiet)
        sums = distributed.all_reduce(*tally.flatten().tolist())
        return self.task.scores(torch.tensor(sums).long().reshape(tally.shape), len(data))
