"""Augmentation against slow and obvious twins; the plan of an epoch."""

from dataclasses import replace

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from operators import ImageScrambler
from utils.data.augment import Preprocess, augment, plan_epoch, shrink
from utils.training.recipe import PRESETS

RECIPE = replace(PRESETS["published"], rotation=0.0)


def pictures(n=12, height=9, width=7):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (n, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("crop", [0, 2, 20])
def test_crop_and_flip_as_image_by_image(crop):
    images = pictures()
    recipe = replace(RECIPE, crop=crop)
    plan = plan_epoch(len(images), recipe, seed=3, epoch=1)
    for i, result in enumerate(augment(images, plan, recipe)):
        padded = tv.pad(images[i], crop)
        expected = tv.crop(padded, int(plan.shift_y[i]), int(plan.shift_x[i]), 9, 7)
        assert torch.equal(result, tv.hflip(expected) if plan.flip[i] else expected)


@pytest.mark.parametrize("size", [(32, 32), (9, 7), (8, 20)])
def test_rotation_as_torchvision(size):
    images = pictures(16, *size)
    recipe = replace(RECIPE, crop=0, flip="off", rotation=40.0)
    plan = plan_epoch(16, recipe, seed=3, epoch=1)
    same = 0.0
    for i, result in enumerate(augment(images, plan, recipe)):
        expected = tv.rotate(images[i], float(plan.angle[i]), InterpolationMode.NEAREST)
        same += float((result == expected).float().mean()) / 16
    assert same > 0.995  # a pixel exactly between two neighbours may go either way


@pytest.mark.parametrize("side", [1, 4, 5])
def test_cutout_pixel_by_pixel(side):
    images = pictures()
    recipe = replace(RECIPE, crop=0, flip="off", cutout=side)
    plan = plan_epoch(len(images), recipe, seed=3, epoch=1)
    for i, result in enumerate(augment(images, plan, recipe)):
        top = int(plan.cutout_y[i] * 9) - side // 2
        left = int(plan.cutout_x[i] * 7) - side // 2
        for y in range(9):
            for x in range(7):
                blank = top <= y < top + side and left <= x < left + side
                assert torch.equal(result[:, y, x], images[i, :, y, x] * (not blank))


def test_plan_depends_on_seed_and_epoch_only():
    torch.manual_seed(1)
    first = plan_epoch(50, PRESETS["published"], seed=3, epoch=4)
    torch.manual_seed(2)
    again = plan_epoch(50, PRESETS["published"], seed=3, epoch=4)
    assert all(torch.equal(getattr(first, n), getattr(again, n)) for n in vars(first))
    for other in (plan_epoch(50, RECIPE, 3, 5), plan_epoch(50, RECIPE, 4, 4)):
        assert not torch.equal(first.order, other.order)
    assert first.order.sort().values.tolist() == list(range(50))
    assert first.shift_y.min() >= 0 and first.shift_y.max() == 8
    assert first.angle.abs().max() <= 15
    assert 10 < first.flip.sum() < 40


def test_alternating_flips_show_both_sides_of_every_image():
    recipe = replace(PRESETS["published"], flip="alternate")
    mirrored = []
    for epoch in range(3):
        plan = plan_epoch(100, recipe, seed=5, epoch=epoch)
        mirrored.append(plan.flip[plan.order.argsort()])  # by image
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert torch.equal(mirrored[0], mirrored[2])
    assert 30 < mirrored[0].sum() < 70
    of_epoch_0 = plan_epoch(100, PRESETS["published"], seed=5, epoch=0)
    of_epoch_0 = of_epoch_0.flip[of_epoch_0.order.argsort()]
    assert not torch.equal(mirrored[0], of_epoch_0)  # its own stream, not the first epoch's


def test_part_is_the_slice_of_the_plan():
    recipe = replace(PRESETS["published"], cutout=3)
    plan = plan_epoch(10, recipe, seed=0, epoch=0)
    images = pictures(10)[plan.order]
    whole = augment(images, plan, recipe)
    parts = [augment(images[s], plan.part(s), recipe) for s in (slice(0, 4), slice(4, 10))]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("channels_last", [False, True])
def test_preprocess_scrambles_then_normalises(channels_last):
    scrambler = ImageScrambler((9, 7), seed=1)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    images = pictures()
    result = Preprocess(mean, std, scrambler, channels_last)(images)
    expected = tv.normalize(scrambler(images) / 255, mean, std)
    assert torch.allclose(result, expected, atol=1e-6)
    assert result.is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def test_shrinking_averages_areas():
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    halves = pixels.view(2, 3, 4, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(shrink(pixels, 4), halves)
    three_quarters = shrink(pixels, 6)  # windows of two pixels that begin at 0, 1, 2, 4, 5, 6
    for y, top in enumerate((0, 1, 2, 4, 5, 6)):
        for x, left in enumerate((0, 1, 2, 4, 5, 6)):
            window = pixels[:, :, top : top + 2, left : left + 2].mean((2, 3))
            torch.testing.assert_close(three_quarters[:, :, y, x], window)
    assert torch.equal(shrink(pixels, 8), pixels)
    last = pixels.contiguous(memory_format=torch.channels_last)
    assert shrink(last, 4).is_contiguous(memory_format=torch.channels_last)
