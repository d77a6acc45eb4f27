"""experiments/attacks: each attack recovers a planted easy case, so that a broken attack cannot
pass for a strong defence, and finds nothing where every image has its own key."""

import json

import ciphertext_only
import feature_maps
import key_free_learning
import key_search
import known_model
import known_plaintext
import numpy as np
import pytest
import torch
from running import ROOT
from torch import nn

from experiments.lib import recovery, report, schemes, summary
from utils.io.pictures import read_image

SIZE = (12, 10)


def clouds(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> torch.Tensor:
    """Random colour pictures with the spectrum of natural ones, uint8 ``(N, 3, H, W)``."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, 4 * size[0], 4 * size[1], generator=generator)
    y, x = torch.fft.fftfreq(4 * size[0])[:, None], torch.fft.rfftfreq(4 * size[1])
    spectrum = torch.fft.rfft2(noise) / (0.01 + (y**2 + x**2).sqrt()) ** 1.4
    smooth = torch.fft.irfft2(spectrum, s=noise.shape[2:])[..., : size[0], : size[1]]
    return (128 + 40 * smooth / smooth.std()).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("name", ["published", "256-bit fixed"])
def test_known_plaintext_recovers_a_fixed_key(name):
    scheme = schemes.SCHEMES[name](SIZE)
    images = torch.cat([known_plaintext.chosen_image(SIZE), clouds(1)])
    key, certain = known_plaintext.attack(images[:1], scheme.scramble(images)[:1])
    assert certain.all()
    assert np.array_equal(key, scheme.positions(1)[0].numpy())


def test_known_plaintext_is_certain_only_where_colours_are_unique():
    image = torch.tensor([1, 2, 2, 3], dtype=torch.uint8).expand(1, 3, 4).reshape(1, 3, 2, 2)
    key = torch.tensor([2, 3, 0, 1])
    scrambled = image.flatten(2)[..., key].reshape(image.shape)
    found, certain = known_plaintext.attack(image, scrambled)
    assert certain.tolist() == [False, True, True, False]
    assert found[[1, 2]].tolist() == [3, 0]


@pytest.mark.parametrize("name", ["published", "256-bit fixed"])
def test_ciphertext_only_recovers_a_fixed_key(name):
    scheme = schemes.SCHEMES[name](SIZE)
    found = ciphertext_only.attack(scheme.scramble(clouds(600)))
    score, _ = ciphertext_only.best_symmetry(found, scheme.positions(600).numpy(), SIZE)
    assert score["exact"] > 0.95


def test_public_pictures_break_the_symmetry():
    torch.manual_seed(0)
    noise = torch.linspace(0, 24, SIZE[0])[:, None] + torch.linspace(0, 12, SIZE[1])
    images, public = (
        (0.6 * clouds(600, seed=s) + noise * torch.rand(600, 3, *SIZE)).byte() for s in (0, 1)
    )  # noisier towards one corner, so that no symmetry is left
    reference, _ = ciphertext_only.similarities(public)
    scheme = schemes.SCHEMES["256-bit fixed"](SIZE)
    scrambled = scheme.scramble(images)
    found = ciphertext_only.attack(scrambled)
    found = ciphertext_only.attack_with_public(scrambled, found, reference)
    assert report.placement(found, scheme.positions(1).numpy(), SIZE[1])["exact"] > 0.95


@pytest.mark.parametrize("name", ["per-image", "per-image values"])
def test_ciphertext_only_finds_nothing_under_per_image_keys(name):
    scheme = schemes.SCHEMES[name](SIZE)
    found = ciphertext_only.attack(scheme.scramble(clouds(500)))
    score, _ = ciphertext_only.best_symmetry(found, scheme.positions(500).numpy(), SIZE)
    assert score["exact"] < 0.03


def test_feature_maps_are_laid_out():
    torch.manual_seed(0)
    size = (16, 14)
    maps = nn.Conv2d(3, 16, 3, padding=1)(clouds(500, size) / 255.0).detach()
    key = torch.randperm(size[0] * size[1])
    scrambled = maps.flatten(2)[..., key].reshape(maps.shape)
    score, _ = ciphertext_only.best_symmetry(feature_maps.attack(scrambled), key.numpy(), size)
    assert score["exact"] > 0.95


def test_smooth_maps_are_found_among_edges():
    size = (16, 14)
    pictures = clouds(500, size) / 255.0
    corners = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    edges = nn.functional.conv2d(pictures[:, :1], corners.expand(30, 1, 3, 3), padding=1)
    edges = edges + 0.1 * torch.randn(edges.shape, generator=torch.Generator().manual_seed(0))
    maps = torch.cat([edges, pictures[:, 1:]], 1)
    key = torch.randperm(size[0] * size[1], generator=torch.Generator().manual_seed(1))
    scrambled = maps.flatten(2)[..., key].reshape(maps.shape)
    score, _ = ciphertext_only.best_symmetry(feature_maps.attack(scrambled), key.numpy(), size)
    assert score["exact"] > 0.95


class OneLayer(nn.Module):
    """A first layer as the attack on maps expects it, and an answer that needs no order."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.pool(torch.relu(self.conv1(x))).flatten(1)


@pytest.fixture(scope="module")
def views():
    """What the servers hold of 500 pictures, by scheme, and the plain network's maps."""
    torch.manual_seed(0)
    net, images = OneLayer().eval(), clouds(500, (16, 14)) / 255.0
    seen = {view.scheme: view for view in feature_maps.views(net, images)}
    return seen, feature_maps.watch(net.conv1, lambda: net(images))


def test_views_tell_where_everything_in_a_map_belongs(views):
    seen, natural = views
    schemes = ["published", "256-bit fixed", "per-image", "per-image maps", "folded"]
    assert list(seen) == schemes
    for view in seen.values():
        natural_again = report.unscramble(view.maps, torch.from_numpy(view.positions))
        torch.testing.assert_close(natural_again, natural, rtol=1e-4, atol=1e-5)
        as_it_lies = np.arange(16 * 14)
        in_order = report.placement(as_it_lies, view.positions, 14)["exact"]
        assert in_order == 1 if view.scheme == "folded" else in_order < 0.05


@pytest.mark.parametrize("scheme", ["published", "256-bit fixed", "per-image", "folded"])
def test_maps_under_one_key_are_laid_out(views, scheme):
    view = views[0][scheme]
    found = feature_maps.attack(view.maps)
    score, _ = ciphertext_only.best_symmetry(found, view.positions, (16, 14))
    assert score["exact"] > 0.95


def test_maps_under_a_key_of_each_image_are_not(views):
    view = views[0]["per-image maps"]
    found = feature_maps.attack(view.maps)
    score, _ = ciphertext_only.best_symmetry(found, view.positions, (16, 14))
    assert score["exact"] < 0.03


def test_watch_sees_a_layer_and_computes_no_further():
    def never(module, inputs):
        raise AssertionError("computed further")

    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    net[1].register_forward_pre_hook(never)
    images = torch.rand(3, 3, 4, 4)
    assert torch.equal(feature_maps.watch(net[0], lambda: net(images)), net[0](images))


def test_key_search_finds_a_seed():
    scrambler = schemes.ImageScrambler((16, 16), seed=37)
    seed, _ = key_search.attack(scrambler(clouds(1, (16, 16)))[0], range(60))
    assert seed == 37


def labelled(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures whose label is told by their brightest channel."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    images = torch.randint(0, 100, (count, 3, 8, 8), generator=generator)
    images[torch.arange(count), labels] += 100
    return images.to(torch.uint8), labels


@pytest.mark.parametrize("first", [key_free_learning.Values, key_free_learning.ColourHistogram])
def test_key_free_learning_learns_colours(first):
    torch.manual_seed(0)
    width = 3 * 64 if first is key_free_learning.Values else key_free_learning.LEVELS**3
    net = key_free_learning.perceptron(width, 3, first())
    accuracy = key_free_learning.learn(net, labelled(1000, 0), labelled(200, 1), epochs=3)
    assert accuracy > 0.9


def test_the_histogram_does_not_see_positions():
    images = clouds(4)
    scrambled = schemes.SCHEMES["per-image"](SIZE).scramble(images)
    histogram = key_free_learning.ColourHistogram()
    assert torch.equal(histogram(images), histogram(scrambled))


class Template(nn.Module):
    """Recognises three patterns of values that all differ, and is unsure of everything else."""

    def __init__(self):
        super().__init__()
        self.patterns = torch.eye(6).repeat(1, 1)[:3] * 2 + torch.eye(6)[3:] - 0.5

    def forward(self, x):
        return -4 * (x.flatten(1)[:, None] - self.patterns).square().sum(-1)


def test_known_model_recovers_what_the_network_tells_apart():
    net = Template()
    natural = net.patterns.reshape(3, 1, 2, 3)
    key = torch.tensor([3, 0, 5, 1, 4, 2])
    scrambled = natural.flatten(2)[..., key].reshape(natural.shape)
    found = known_model.attack(net, scrambled, steps=100, lr=0.1)
    right = known_model.loss_of(net, scrambled, key.numpy())
    assert known_model.loss_of(net, scrambled, found) <= right + 1e-3


def sure_of(images: torch.Tensor) -> nn.Module:
    """A network that is sure of exactly these images, uint8 ``(N, C, H, W)``, if upright."""
    flat = images.flatten(1).float()
    net = nn.Sequential(nn.Flatten(), nn.Linear(flat.shape[1], len(flat)))
    with torch.no_grad():
        net[1].weight.copy_((flat - flat.mean(1, keepdim=True)) / 2000)
        net[1].bias.zero_()
    return net.requires_grad_(False)


def test_known_model_finds_the_upright_symmetry():
    images = clouds(8)
    net = sure_of(images)
    scheme = schemes.SCHEMES["256-bit fixed"](SIZE)
    key = scheme.positions(1)[0].numpy()
    scrambled = scheme.scramble(images).float()
    for start in recovery.symmetries(key, SIZE):
        found = known_model.least_loss(net, scrambled, recovery.symmetries(start, SIZE))
        assert np.array_equal(found, key)


def test_known_model_goes_on_from_the_ciphertext_only_one(monkeypatch):
    monkeypatch.setattr(known_model, "UPRIGHT_IMAGES", 8)
    images = clouds(600)
    scheme = schemes.SCHEMES["256-bit fixed"](SIZE)
    scrambled, key = scheme.scramble(images), scheme.positions(1)[0].numpy()
    net = sure_of(images[:8])
    tried = known_model.attacks(net, torch.Tensor.float, scrambled, 8, 600, steps=2)
    found = {method: (used, permutation) for method, used, permutation, _ in tried}
    assert {m: used for m, (used, _) in found.items()} == {
        "gradient": 8,
        "ciphertext-only": 600,
        "ciphertext-only, gradient": 600,
    }
    start, refined = found["ciphertext-only"][1], found["ciphertext-only, gradient"][1]
    assert report.placement(start, key, SIZE[1])["exact"] > 0.95  # no symmetry forgiven
    losses = [known_model.loss_of(net, scrambled[:8].float(), x) for x in (refined, start)]
    assert losses[0] <= losses[1]


def remembering(images: torch.Tensor) -> nn.Module:
    """A network of edge filters whose batch normalisations remember the maps of ``images``."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32, momentum=None), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32, momentum=None), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)),
    )
    with torch.no_grad():
        net[0].weight -= net[0].weight.mean((2, 3), keepdim=True)
        net(images)
    return net.eval().requires_grad_(False)


def test_known_model_refines_a_permutation():
    """Pixels that changed places with their neighbours find back."""
    images = clouds(64) / 128.0 - 1
    net = remembering(clouds(500, seed=1) / 128.0 - 1)
    scheme = schemes.SCHEMES["256-bit fixed"](SIZE)
    scrambled, key = scheme.scramble(images), scheme.positions(1)[0].numpy()
    assert known_model.loss(net, images) < known_model.loss(net, scrambled)
    start = key ^ (key % 8 < 2)  # every fourth pair of neighbours
    before = report.placement(start, key, SIZE[1])["exact"]
    found = known_model.attack(net, scrambled, 60, known_model.REFINING_LR, start=start)
    assert before < 0.8
    assert report.placement(found, key, SIZE[1])["exact"] > before + 0.1
    # a start that is right is kept, wherever the gradient goes from there
    assert np.array_equal(known_model.attack(net, scrambled, 10, lr=1.0, start=key), key)


def test_scores():
    images = clouds(3)
    assert report.psnr(images, images) == pytest.approx(60)
    assert report.ssim(images, images) == pytest.approx(1)
    assert report.psnr(images, 255 - images) < 20
    assert report.ssim(images, clouds(3, seed=5)) < 0.5
    score = report.placement(np.array([0, 4, 8, 3]), np.array([0, 1, 2, 5]), width=3)
    assert score == {"exact": 0.25, "within 1 px": 0.5, "within 2 px": 1.0}


def test_ssim_is_the_mean_over_all_windows():
    a, b = clouds(1), clouds(1, seed=1)
    x, y = (images.double().mean(1)[0].numpy() for images in (a, b))
    scores = []
    for top, left in np.ndindex(SIZE[0] - 6, SIZE[1] - 6):
        p, q = (z[top : top + 7, left : left + 7] for z in (x, y))
        covariance = ((p - p.mean()) * (q - q.mean())).mean()
        like = (2 * p.mean() * q.mean() + 2.55**2) * (2 * covariance + 7.65**2)
        alone = (p.mean() ** 2 + q.mean() ** 2 + 2.55**2) * (p.var() + q.var() + 7.65**2)
        scores.append(like / alone)
    assert report.ssim(a, b) == pytest.approx(np.mean(scores), abs=1e-4)


def test_unscramble_undoes_a_known_key():
    images = clouds(4)
    for scheme in (make(SIZE) for name, make in schemes.SCHEMES.items() if "values" not in name):
        recovered = report.unscramble(scheme.scramble(images), scheme.positions(4))
        assert torch.equal(recovered, images)


def test_symmetries():
    assert len({tuple(t) for t in recovery.symmetries(np.arange(9), (3, 3))}) == 8
    assert len({tuple(t) for t in recovery.symmetries(np.arange(12), (3, 4))}) == 4


def test_markdown():
    table = report.markdown([{"scheme": "a", "exact": 0.5, "images": 2000}, {"scheme": "b"}])
    assert table.splitlines()[2:] == ["| a | 50.0% | 2,000 |", "| b |  |  |"]


MAINS = {
    known_plaintext: ["-pairs", "1"],
    feature_maps: ["-images", "2", "8", "-weights", "WEIGHTS"],
    known_model: [
        *("-images", "2", "-ciphertext_images", "8", "-steps", "1", "-weights", "WEIGHTS"),
        *("-scheme", "published", "per-image values"),
    ],
    key_free_learning: [
        *("-train_images", "64", "-test_images", "16", "-epochs", "1"),
        *("-scheme", "published", "per-image values"),
    ],
}


@pytest.mark.parametrize("attack", MAINS, ids=lambda module: module.__name__)
def test_mains_report(attack, monkeypatch, tmp_path, weights):
    """From the command line to the figure, on random pictures and without laying them out."""
    monkeypatch.setattr(known_plaintext, "TRIALS", 6)
    monkeypatch.setattr(known_model, "SCORED_IMAGES", 8)
    for module in (ciphertext_only, feature_maps):
        monkeypatch.setattr(module, "attack", lambda seen: np.arange(32 * 32))

    def shuffled(args, split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return clouds(count, (32, 32)), torch.arange(count) % 10

    monkeypatch.setattr(schemes, "shuffled_images", shuffled)
    words = [str(weights) if word == "WEIGHTS" else word for word in MAINS[attack]]
    monkeypatch.setattr("sys.argv", [attack.__name__, *words, "-out_dir", str(tmp_path)])
    attack.main()
    record = json.loads((tmp_path / f"{attack.__name__}.json").read_text())
    headline = next(h for h in summary.HEADLINES if h.attack == attack.__name__)
    for scheme in {row["scheme"] for row in record["rows"]}:
        rows = headline.counting(record["rows"], scheme)
        assert rows and all(0 <= row[headline.column] <= 1 for row in rows)
    text = (tmp_path / f"{attack.__name__}.md").read_text()
    columns = text.partition("Columns: ")[2].count(";") + 1
    width, height = read_image(tmp_path / f"{attack.__name__}.png").size
    cell = 3 * 32 + 4
    assert (width, height) == (columns * cell + 4, 6 * cell + 4)


@pytest.mark.parametrize("name", ["ciphertext_only", "feature_maps", "known_model"])
def test_scipy_is_asked_for_where_it_is_absent(launch, refused, tmp_path, name):
    (tmp_path / "scipy.py").write_text("raise ModuleNotFoundError('No module named scipy')")
    path = ROOT / "experiments" / "attacks" / f"{name}.py"
    result = launch(path, "-h", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert "needs SciPy" in refused(result) and "pip install" in result.err
