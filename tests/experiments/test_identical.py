"""The paper's claim on real pictures: with the key the predictions are the plain network's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import ROOT

import models
from operators import ImageScrambler
from utils.data.augment import Preprocess
from utils.data.datasets import DATASETS
from utils.io import checkpoint

SPEC = DATASETS["cifar10"]
PER_CLASS = 50


@pytest.fixture(scope="module")
def images(cifar10_dir: Path) -> torch.Tensor:
    """The first 50 test images of each class, uint8 ``(500, 3, 32, 32)``."""
    if not (cifar10_dir / "test").is_dir():
        pytest.skip(f"NO CLASS FOLDERS in {cifar10_dir}: this test reads them")
    folders = [cifar10_dir / "test" / name for name in SPEC.classes]
    paths = [p for folder in folders for p in sorted(folder.iterdir())[:PER_CLASS]]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    assert len(pixels) == 500
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def random_vgg16() -> torch.nn.Module:
    """Random weights, and batch norms that differ from channel to channel as trained ones do."""
    torch.manual_seed(0)
    net = models.create_model("vgg16").eval()
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.3)
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 1.5)
    return net


def test_predictions_are_identical_with_the_key_only(images):
    key, other = ImageScrambler(32, seed=1312), ImageScrambler(32, seed=1313)
    plain = random_vgg16()
    keyed = models.create_model("vgg16_permuted", scrambler=key).eval()

    def logits(net: torch.nn.Module, scramble: ImageScrambler | None, n: int) -> torch.Tensor:
        preprocess = Preprocess(SPEC.mean, SPEC.std, scramble)
        with torch.inference_mode():
            return torch.cat([net(preprocess(batch)) for batch in images[:n].split(125)])

    # a random network favours one class; centred logits make it decide by the picture
    plain.classifier[-1].bias.data -= logits(plain, None, 500).mean(0)
    keyed.load_state_dict(plain.state_dict(), strict=True)

    expected = logits(plain, None, 500)
    assert expected.argmax(1).unique().numel() >= 5, "predictions too uniform to prove anything"
    found = logits(keyed, key, 500)
    assert torch.equal(found.argmax(1), expected.argmax(1))
    scale = float(expected.std())
    assert float((found - expected).abs().max()) < 1e-4 * scale

    without = logits(keyed, other, 125)
    assert (without.argmax(1) != expected[:125].argmax(1)).float().mean() > 0.1
    assert float((without - expected[:125]).abs().mean()) > 0.1 * scale


def test_the_shipped_weights_know_pictures_scrambled_with_the_key_only(images):
    path = ROOT / "checkpoints" / "preresnet20.pt"
    state = checkpoint.read(path)
    record = json.loads(path.with_suffix(".json").read_text())
    assert checkpoint.digest(state) == record["weights_sha256"]  # bare weights

    key, other = ImageScrambler(32, seed=1312), ImageScrambler(32, seed=1313)
    plain = models.create_model("preresnet20").eval()
    checkpoint.load_weights(plain, state, path)
    keyed = models.key_network(plain, key)
    labels = torch.arange(10).repeat_interleave(PER_CLASS)

    def predictions(net: torch.nn.Module, scramble: ImageScrambler | None) -> torch.Tensor:
        with torch.inference_mode():
            return net(Preprocess(SPEC.mean, SPEC.std, scramble)(images)).argmax(1)

    expected = predictions(plain, None)
    assert (expected == labels).float().mean() > 0.8
    assert torch.equal(predictions(keyed, key), expected)
    assert (predictions(keyed, other) == labels).float().mean() < 0.25
