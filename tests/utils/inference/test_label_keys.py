"""Label maps of scrambled pictures are put right by whoever has the key, and by nobody else."""

import pytest
import torch

from operators import ImageScrambler, PerImageScrambler, SecretKey
from utils.data.masks import Fit, MaskSet
from utils.inference.evaluation import all_labels
from utils.inference.label_keys import LabelKeys

SIZE = (6, 9)
SECRET = SecretKey(bytes(range(32)))


def maps_and_images():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 3, *SIZE), generator=generator, dtype=torch.uint8)
    return torch.randint(21, (4, *SIZE), generator=generator, dtype=torch.uint8), images


KEYS = {
    "output key of a seed": LabelKeys.of("unet_permuted", ImageScrambler(SIZE, seed=1), None),
    "image key of a seed": LabelKeys.of("unet", ImageScrambler(SIZE, seed=1), None),
    "output key": LabelKeys.of("unet_permuted", ImageScrambler(SIZE, secret=SECRET), None),
    "image key": LabelKeys.of("unet", ImageScrambler(SIZE, secret=SECRET), None),
    "output key, per image": LabelKeys.of(
        "unet_permuted",
        ImageScrambler(SIZE, secret=SECRET),
        PerImageScrambler(SIZE, SECRET),
    ),
    "key of each image": LabelKeys.of(
        "unet", ImageScrambler(SIZE, secret=SECRET), PerImageScrambler(SIZE, SECRET)
    ),
}


@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_restoring_undoes_scrambling(keys):
    maps, images = maps_and_images()
    scrambled = keys.scramble(maps, images)
    assert scrambled.dtype == torch.uint8 and not torch.equal(scrambled, maps)
    assert torch.equal(keys.restore(scrambled, images), maps)


def test_the_keys_differ_unless_they_should_not():
    maps, images = maps_and_images()
    found = {name: keys.scramble(maps, images) for name, keys in KEYS.items()}
    same = [(a, b) for a in found for b in found if a < b and torch.equal(found[a], found[b])]
    assert same == [("output key", "output key, per image")]


def test_maps_of_plain_images_are_in_order():
    assert LabelKeys.of("unet", None, None) is None


def test_a_pixel_answered_where_it_was_received_is_put_back():
    """A network that looks at single pixels labels scrambled pictures as plain ones."""
    _, images = maps_and_images()
    camera = PerImageScrambler(SIZE, SECRET)
    keys = LabelKeys.of("unet", camera.fixed, camera)
    data = MaskSet(images, images[:, 0], ("a",), (), (Fit(SIZE, SIZE),) * 4)

    def sent(x):
        return camera.scramble(x, camera.nonces_for(x)).float()

    net = torch.nn.Identity()
    plain = all_labels(net, torch.Tensor.float, data, 3, torch.device("cpu"), quiet=True)
    found = all_labels(net, sent, data, 3, torch.device("cpu"), quiet=True, restore=keys.restore)
    assert plain.dtype == torch.uint8 and torch.equal(plain, images.float().argmax(1))
    assert torch.equal(found, plain)
