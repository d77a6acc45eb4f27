"""The engine in one process: gradients, averaging, what a run of several seeds reports."""

import json
import statistics
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from models import registry
from models.preresnet import PreResNet
from operators import ImageScrambler
from tests.utils.tiny import (
    RECIPE,
    SIZE,
    PlainNet,
    ScaledBlock,
    SkippingNet,
    TinyNet,
    make_images,
    options,
)
from utils.data.augment import Preprocess, augment, plan_epoch
from utils.data.datasets import ImageSet
from utils.inference import network
from utils.runtime.errors import UserError
from utils.runtime.stop import StopSignal
from utils.training.recipe import lr_factor
from utils.training.run import train
from utils.training.seeds import train_seeds
from utils.training.trainer import Trainer

CPU = torch.device("cpu")
STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def images(count=21):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 3, ("a", "b", "c"))


def trainer(recipe, net=PlainNet, data=None):
    torch.manual_seed(0)
    return Trainer(net(3), recipe, data or images(), Preprocess(*STATISTICS), CPU, seed=5)


class PenalisedNet(PlainNet):
    """Adds to the loss what weight decay would have the gradient of."""

    def take_penalty(self):
        return 0.05 / 2 * sum(p.square().sum() for p in self.parameters())


def test_a_networks_penalty_is_added_to_the_mean_loss():
    recipe = replace(RECIPE, optimizer="sgd", momentum=0.0, clip=0.0)
    decayed = trainer(replace(recipe, weight_decay=0.05))
    penalised = trainer(replace(recipe, weight_decay=0.0), PenalisedNet)
    with StopSignal() as stop:
        losses = [t.train_epoch(stop, save=lambda: None)["loss"] for t in (decayed, penalised)]
    for ours, theirs in zip(penalised.net.parameters(), decayed.net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert losses[1] > losses[0] + 1e-3


def test_an_epoch_written_out():
    """Plain SGD as in a textbook, with the plan's batches, gives the same weights."""
    recipe = replace(RECIPE, optimizer="sgd", clip=0.0, ema=0.5, momentum=0.0, weight_decay=0.0)
    ours = trainer(recipe)
    torch.manual_seed(0)
    net, data = PlainNet(3), images()
    average, losses = None, []
    with StopSignal() as stop:
        for epoch in range(2):
            metrics = ours.train_epoch(stop, save=lambda: None)
            plan, total = plan_epoch(21, recipe, 5, epoch), 0.0
            for step in range(3):  # 21 images in batches of 8
                part = plan.part(slice(8 * step, 8 * step + 8))
                inputs = Preprocess(*STATISTICS)(augment(data.images[part.order], part, recipe))
                logits, labels = net(inputs), data.labels[part.order]
                loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
                total += float(loss.detach()) * len(labels)
                grads = torch.autograd.grad(loss, list(net.parameters()))
                rate = 0.05 * lr_factor(recipe, epoch + step / 3)
                with torch.no_grad():
                    for p, g in zip(net.parameters(), grads, strict=True):
                        p -= rate * g
                now = [p.detach().clone() for p in net.parameters()]
                average = (
                    now
                    if average is None
                    else [0.5 * a + 0.5 * b for a, b in zip(average, now, strict=True)]
                )
            losses.append(total / 21)
            assert metrics["loss"] == pytest.approx(losses[-1], rel=1e-5)
    for a, b in zip(ours.net.parameters(), net.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    for a, b in zip(ours.best_net.parameters(), average, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("decay", [0.9, 0.9995])
def test_a_keyed_network_averages_as_its_plain_twin_and_keeps_its_keys(decay, monkeypatch):
    """The average of whole numbers is cut off to one: keys were once off by one after a while."""
    monkeypatch.setattr(registry, "_PLAIN", {"tiny": TinyNet})
    scrambler = ImageScrambler((SIZE, SIZE), seed=2)
    recipe = replace(RECIPE, optimizer="sgd", ema=decay, epochs=7)
    ends = []
    for name, scramble in (("tiny", None), ("tiny_permuted", scrambler)):
        torch.manual_seed(0)
        net = network.build(name, 3, (SIZE, SIZE), scrambler, CPU)
        before = {n: b.clone() for n, b in net.named_buffers() if not b.is_floating_point()}
        ours = Trainer(net, recipe, images(), Preprocess(*STATISTICS, scramble), CPU, seed=5)
        with StopSignal() as stop:
            for _ in range(7):  # 21 steps
                ours.train_epoch(stop, save=lambda: None)
        averaged = dict(ours.best_net.named_buffers())
        for buffer, value in before.items():
            expected = torch.tensor(21) if buffer.endswith("num_batches_tracked") else value
            assert torch.equal(averaged[buffer], expected), buffer
        assert len(before) > 1 or scramble is None, "a keyed network has keys"
        ends.append(ours.best_net.state_dict())
    plain, keyed = ends
    assert plain.keys() == keyed.keys()
    for name, value in plain.items():
        assert torch.allclose(keyed[name], value, rtol=1e-3, atol=1e-5), name


def test_the_global_random_state_does_not_matter():
    results = []
    for noise in range(2):
        ours = trainer(RECIPE, TinyNet)
        torch.manual_seed(noise)
        with StopSignal() as stop:
            ours.train_epoch(stop, save=lambda: None)
        results.append(ours.net.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_every_image_is_counted_once():
    ours = trainer(replace(RECIPE, ema=0.0))
    data = images()
    right = sum(
        int(ours.net(Preprocess(*STATISTICS)(image[None])).argmax()) == label
        for image, label in zip(data.images, data.labels, strict=True)
    )
    assert ours.evaluate(data)["correct"] == right


def test_every_epoch_has_the_images_of_its_part_of_the_run():
    ours, seen = trainer(replace(RECIPE, sizes=(4, 8), ema=0.0), SkippingNet), []
    ours.net.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    with StopSignal() as stop:
        for _ in range(3):
            ours.train_epoch(stop, save=lambda: None)
    sides = [4] * 3 + [8] * 6  # 21 images in batches of 8: 3 steps an epoch
    assert seen == [(n, 3, side, side) for side, n in zip(sides, (8, 8, 5) * 3, strict=True)]
    ours.evaluate(images())
    assert seen[-1] == (21, 3, 8, 8)


def test_steps_skip_different_blocks():
    ours, ran = trainer(replace(RECIPE, depth_kept=0.3, ema=0.0), SkippingNet), []
    blocks = [m for m in ours.net if isinstance(m, ScaledBlock)]
    for block in blocks:
        block.conv.register_forward_hook(lambda *_, block=block: ran[-1].add(blocks.index(block)))
    ours.net.register_forward_pre_hook(lambda *_: ran.append(set()))
    with StopSignal() as stop:
        for _ in range(3):
            ours.train_epoch(stop, save=lambda: None)
    assert len(ran) == 9 and len({frozenset(step) for step in ran}) > 3
    ours.evaluate(images())
    assert ran[-1] == {0, 1, 2, 3}


def test_amp_and_channels_last_train():
    # noise without augmentation: what falls is what the network learns by heart
    still = replace(RECIPE, epochs=9, crop=0, flip="off", rotation=0.0, cutout=0)
    ours = trainer(replace(still, amp="on", channels_last=True), TinyNet)
    with StopSignal() as stop:
        losses = [ours.train_epoch(stop, save=lambda: None)["loss"] for _ in range(9)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(registry, "_PLAIN", {"tiny": TinyNet})
    make_images(tmp_path / "images", per_class=4)
    return tmp_path


def test_several_seeds(root, capsys):
    recipe = replace(RECIPE, epochs=1)
    go = partial(train, recipe=recipe, scrambler=None, device=CPU)
    summary = train_seeds([3, 4], options(root), "accuracy", go)
    accuracies = summary["test_accuracies"]
    assert summary["mean"] == statistics.fmean(accuracies)
    assert summary["standard_deviation"] == statistics.stdev(accuracies)
    assert "Test accuracy over 2 seeds: " in capsys.readouterr().out
    (path,) = (root / "checkpoints" / "tiny").glob("*.seeds.json")
    assert json.loads(path.read_text()) == summary
    again = train(options(root, train_seed=4, workers=1), recipe, None, CPU)  # streamed
    assert again["test_accuracy"] == accuracies[1]


def test_a_keyed_network_trains_on_scrambled_images_as_the_plain_one_on_plain_ones(root):
    key = ImageScrambler((SIZE, SIZE), seed=2)
    recipe = replace(RECIPE, epochs=1, init="whiten")
    plain = train(options(root), recipe, None, CPU)
    keyed = train(options(root, net="tiny_permuted", permute=True), recipe, key, CPU)
    assert keyed["epochs"][0]["loss"] == pytest.approx(plain["epochs"][0]["loss"], rel=1e-4)
    unaware = train(options(root, permute=True), recipe, key, CPU)
    assert unaware["epochs"][0]["loss"] != pytest.approx(plain["epochs"][0]["loss"], rel=1e-3)


def test_nothing_is_written_where_a_run_cannot_begin(root):
    before = sorted(root.rglob("*"))
    (root / "bad.pt").write_bytes(b"no weights")
    for change in ({"weights": root / "bad.pt"}, {"data_dir": root / "runs"}):
        with pytest.raises(UserError):
            train(options(root, **change), RECIPE, None, CPU)
    with pytest.raises(UserError, match="cannot take 9x9 images"):
        train(options(root, image_size=(9, 9)), RECIPE, None, CPU)
    with pytest.raises(UserError, match="-sync_bn"):
        train(options(root), replace(RECIPE, sync_bn=True), None, CPU)
    key = ImageScrambler((SIZE, SIZE), seed=2)
    registry._PLAIN["skipping"] = SkippingNet
    for net, change, permute, message in (
        ("tiny", {"depth_kept": 0.8}, False, "-depth_kept 0.8 .*-net tiny has none"),
        ("skipping_permuted", {"depth_kept": 0.8}, True, "-net skipping_permuted has none"),
        ("skipping", {"sizes": (4, 8)}, True, "-sizes 4,8: a key .* give -sizes 8"),
        ("skipping", {"sizes": (4, 6)}, False, "-sizes 4,6: the last .* which are 8x8"),
        ("tiny", {"sizes": (2, 8)}, False, "-net tiny cannot take 2x2 images"),
    ):
        with pytest.raises(UserError, match=message):
            train(options(root, net=net, permute=permute), replace(RECIPE, **change), key, CPU)
    kept = [p for p in sorted(root.rglob("*")) if p.name != "bad.pt" and "cache" not in p.parts]
    assert kept == [p for p in before if "cache" not in p.parts]


def test_unwritable_folders_are_found_before_training(root):
    (root / "file").touch()
    with pytest.raises(UserError, match="-checkpoint_dir"):
        train(options(root, checkpoint_dir=root / "file"), RECIPE, None, CPU)
    with pytest.raises(UserError, match="-log_dir"):
        train(options(root, log_dir=root / "file"), RECIPE, None, CPU)


def test_a_step_of_one_image_is_refused_where_batch_norm_needs_two(root):
    for batch_size in (1, 11):  # of 12 images
        recipe = replace(RECIPE, batch_size=batch_size)
        with pytest.raises(UserError, match="-b: a step would have a single image"):
            train(options(root, net="torchvision:resnet18"), recipe, None, CPU)


def test_a_step_of_one_image_is_refused_where_only_the_smaller_images_need_two(root):
    registry._PLAIN["residual"] = partial(PreResNet, 8)
    recipe = replace(RECIPE, batch_size=11, epochs=2)  # of 12 images
    assert train(options(root, net="residual"), recipe, None, CPU)["epochs"]
    with pytest.raises(UserError, match="-b: a step would have a single image"):
        train(options(root, net="residual"), replace(recipe, sizes=(4, 8)), None, CPU)
