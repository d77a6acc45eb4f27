"""The training loop: one step at a time, exactly resumable at any of them.

Learning rate, order, augmentation and dropout of a step depend only on the recipe, the seed and
the step's place in the run; everything else is in the checkpoint. A run that was stopped and
resumed therefore ends with the weights of the uninterrupted run, bit for bit on one machine's CPU.
"""

import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from utils.batches import EpochPlan, Preprocess, augment, derive_seed, plan_epoch
from utils.cli import UserError
from utils.data import ImageSet
from utils.evaluation import autocast, count_correct, logits_in_batches
from utils.optim import Optimizer
from utils.recipe import Recipe, lr_factor

CHECK_EVERY = 20  # steps between looks at the loss, each of which waits for the device


@dataclass
class Progress:
    """Where a run stands. ``epoch`` counts finished epochs; the rest is of the current one."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    seconds: float = 0.0


class Trainer:
    """Trains one network by one recipe.

    Args:
        net: the network, on ``device``; its memory format is set here.
        recipe: how to train.
        data: the training images; moved to ``device``.
        preprocess: uint8 batch to network input.
        device: where to train.
        seed: of order, augmentation and dropout.
        on_stop: called when SIGINT or SIGTERM arrived, after the step under way is done.
    """

    def __init__(
        self,
        net: nn.Module,
        recipe: Recipe,
        data: ImageSet,
        preprocess: Preprocess,
        device: torch.device,
        seed: int,
        on_stop: Callable[["Trainer"], None] = lambda trainer: None,
    ) -> None:
        memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.net = net.to(memory_format=memory_format)
        self.recipe, self.seed, self.device, self.on_stop = recipe, seed, device, on_stop
        self.images, self.labels = data.images.to(device), data.labels.to(device)
        self.preprocess = preprocess
        self.optimizer = Optimizer(net, recipe)
        self.averaged = None
        if recipe.ema:
            average = get_ema_multi_avg_fn(recipe.ema)
            self.averaged = AveragedModel(net, multi_avg_fn=average, use_buffers=True)
        self.forward = torch.compile(net) if recipe.compile else net
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

    def train_epoch(self) -> dict:
        """Train to the end of the current epoch; returns and records its metrics.

        Raises:
            UserError: if the loss is not finite.
        """
        p, size = self.progress, self.recipe.batch_size
        plan = plan_epoch(len(self.labels), self.recipe, self.seed, p.epoch)
        self.net.train()
        started = time.perf_counter() - p.seconds
        loss_sum = torch.tensor(p.loss_sum, dtype=torch.float64, device=self.device)
        correct = torch.tensor(p.correct, device=self.device)
        bar = tqdm(
            total=len(self.labels),
            initial=p.images,
            desc=f"epoch {p.epoch + 1}/{self.recipe.epochs}",
            unit="img",
            unit_scale=True,
            disable=None,
        )
        with bar, _StopSignal() as stop:
            while p.step < self.steps_per_epoch:
                part = plan.part(slice(p.step * size, (p.step + 1) * size))
                loss, hits = self._step(part)
                loss_sum += loss.double() * len(part.order)
                correct += hits
                p.step += 1
                p.images += len(part.order)
                bar.update(len(part.order))
                if p.step % CHECK_EVERY == 0 or p.step == self.steps_per_epoch or stop.received:
                    p.loss_sum, p.correct = float(loss_sum), int(correct)
                    p.seconds = time.perf_counter() - started
                    self._check_finite()
                    bar.set_postfix(
                        loss=f"{p.loss_sum / p.images:.3f}", acc=f"{p.correct / p.images:.2%}"
                    )
                if stop.received and p.step < self.steps_per_epoch:
                    self.on_stop(self)
                    sys.exit(128 + stop.received)
        metrics = {
            "epoch": p.epoch + 1,
            "loss": p.loss_sum / p.images,
            "accuracy": p.correct / p.images,
            "lr": self.learning_rate,
            "seconds": p.seconds,
        }
        self.history.append(metrics)
        self.progress = Progress(epoch=p.epoch + 1)
        if stop.received:
            self.on_stop(self)
            sys.exit(128 + stop.received)
        return metrics

    def _step(self, part: EpochPlan) -> tuple[torch.Tensor, torch.Tensor]:
        p = self.progress
        torch.manual_seed(derive_seed(self.seed, p.epoch, p.step))  # dropout
        self.learning_rate = self.optimizer.set_lr(
            lr_factor(self.recipe, p.epoch + p.step / self.steps_per_epoch)
        )
        order = part.order.to(self.device)
        labels = self.labels[order]
        inputs = self.preprocess(augment(self.images[order], part, self.recipe.crop))
        with autocast(self.device, self.recipe.amp):
            logits = self.forward(inputs).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.optimizer.parameters, self.recipe.clip)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.net)
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def _check_finite(self) -> None:
        if not math.isfinite(self.progress.loss_sum):
            raise UserError(
                f"the loss is not finite in epoch {self.progress.epoch + 1}, at or shortly before "
                f"step {self.progress.step}; training stopped, the last checkpoint was kept. "
                f"Try a lower -lr (it is {self.recipe.lr})"
            )

    def accuracy(self, data: ImageSet) -> float:
        """Share of ``data`` that the network to evaluate classifies correctly."""
        batches = logits_in_batches(
            self.best_net, self.preprocess, data, 500, self.device, self.recipe.amp
        )
        return count_correct(torch.cat(list(batches)), data.labels) / len(data)


class _StopSignal:
    """While entered, SIGINT and SIGTERM are noted in ``received`` instead of ending the process."""

    def __enter__(self) -> "_StopSignal":
        self.received = 0
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number: int, frame: object) -> None:
        self.received = number

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
