"""Pictures and masks are varied together, checked pixel by pixel."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from utils.data.augment import Augmentation, EpochPlan, plan_epoch
from utils.data.augment_pair import PairAugmentation, augment_pair, jitter
from utils.data.masks import IGNORED

N, SIZE = 6, (9, 13)
AS_IS = PairAugmentation(scale=(1.0, 1.0))


def pairs(size=SIZE):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (N, 3, *size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 21, (N, *size), generator=generator, dtype=torch.uint8)
    labels[:, 2, 3] = IGNORED
    return images, labels


def plan_of(flip="random", rotation=0.0, seed=3) -> EpochPlan:
    return plan_epoch(N, Augmentation(flip=flip, rotation=rotation), seed, epoch=1)


def one_by_one(image, mask, plan, i, how):
    """The naive twin: where each pixel comes from, and what lies there."""
    (height, width), (h, w) = mask.shape, how.crop_size or mask.shape
    scale = how.scale[0] * (how.scale[1] / how.scale[0]) ** float(plan.zoom[i])
    top = round(float(plan.place_y[i]) * (scale * height - h))
    left = round(float(plan.place_x[i]) * (scale * width - w))
    cos, sin = math.cos(math.radians(plan.angle[i])), math.sin(math.radians(plan.angle[i]))
    mean = image.double().mean((1, 2))
    padded = F.pad(image.double() - mean[:, None, None], (99, 99, 99, 99)) + mean[:, None, None]
    picture, labels = torch.empty(3, h, w).double(), torch.full((h, w), IGNORED)
    for r in range(h):
        for c in range(w):
            u, v = c - (w - 1) / 2, r - (h - 1) / 2
            u = -u if plan.flip[i] else u
            y = (u * sin + v * cos + h / 2 + top) / scale - 0.5
            x = (u * cos - v * sin + w / 2 + left) / scale - 0.5
            if -0.5 <= y < height - 0.5 and -0.5 <= x < width - 0.5:
                labels[r, c] = mask[round(y), round(x)]
            y0, x0 = math.floor(y), math.floor(x)
            picture[:, r, c] = sum(
                (1 - abs(y - b)) * (1 - abs(x - a)) * padded[:, b + 99, a + 99]
                for b in (y0, y0 + 1)
                for a in (x0, x0 + 1)
            )
    return picture, labels


def test_nothing_varied_is_nothing_changed():
    images, labels = pairs()
    same, masks = augment_pair(images, labels, plan_of("off"), AS_IS)
    assert torch.equal(same, images) and torch.equal(masks, labels)


def test_flips_mirror_both():
    images, labels = pairs()
    plan = plan_of()
    assert 0 < plan.flip.sum() < N
    found, masks = augment_pair(images, labels, plan, AS_IS)
    for i, flip in enumerate(plan.flip):
        assert torch.equal(found[i], images[i].flip(2) if flip else images[i])
        assert torch.equal(masks[i], labels[i].flip(1) if flip else labels[i])


@pytest.mark.parametrize("crop_size", [(5, 7), (9, 6), (12, 20)])
def test_crops_are_pixels_of_the_picture_or_ignored(crop_size):
    images, labels = pairs()
    plan, how = plan_of("off"), replace(AS_IS, crop_size=crop_size)
    found, masks = augment_pair(images, labels, plan, how)
    assert found.shape == (N, 3, *crop_size) and masks.shape == (N, *crop_size)
    for i in range(N):
        top, left = (
            round(float(place[i]) * (own - out))
            for place, own, out in zip((plan.place_y, plan.place_x), SIZE, crop_size, strict=True)
        )
        mean = images[i].float().mean((1, 2)).round().to(torch.uint8)
        canvas = mean[:, None, None].expand(3, 99, 99).clone()
        truth = torch.full((99, 99), IGNORED, dtype=torch.uint8)
        canvas[:, 40 : 40 + SIZE[0], 40 : 40 + SIZE[1]] = images[i]
        truth[40 : 40 + SIZE[0], 40 : 40 + SIZE[1]] = labels[i]
        place = slice(40 + top, 40 + top + crop_size[0]), slice(40 + left, 40 + left + crop_size[1])
        assert torch.equal(found[i], canvas[(slice(None), *place)])
        assert torch.equal(masks[i], truth[place])


@pytest.mark.parametrize("rotation", [0.0, 30.0])
@pytest.mark.parametrize("crop_size", [None, (7, 8)])
def test_scale_crop_flip_and_rotation_pixel_by_pixel(crop_size, rotation):
    images, labels = pairs()
    how, plan = PairAugmentation((0.5, 2.0), crop_size), plan_of(rotation=rotation)
    found, masks = augment_pair(images, labels, plan, how)
    right, ignored = 0.0, 0.0
    for i in range(N):
        picture, truth = one_by_one(images[i], labels[i], plan, i, how)
        assert (found[i] - picture).abs().max() < 0.51
        right += (masks[i] == truth).double().mean().item() / N
        ignored += (masks[i] == IGNORED).double().mean().item() / N
    assert right > 0.98  # a pixel exactly between two neighbours may go either way
    assert 0 < ignored < 0.9


def test_scales_are_within_their_range_and_places_reach_both_borders():
    column = torch.arange(1, 101, dtype=torch.uint8)  # labels tell the place
    labels = column[None, :, None].expand(200, 100, 4).contiguous()
    images = torch.zeros(200, 3, 100, 4, dtype=torch.uint8)
    plan = plan_epoch(200, Augmentation(flip="off"), seed=1, epoch=0)
    _, masks = augment_pair(images, labels, plan, PairAugmentation((0.5, 2.0), (40, 4)))
    seen = masks[:, :, 2].float()
    step = (seen[:, 30] - seen[:, 10]) / 20  # pixels of the picture for one of the crop
    step = step[(seen[:, 30] < 255) & (seen[:, 10] < 255)]
    assert 0.5 - 0.05 <= step.min() < 0.6 and 1.8 < step.max() <= 2.05
    assert abs(float((step < 1).double().mean()) - 0.5) < 0.15  # as often larger as smaller
    assert masks.min() <= 3 and masks[masks < IGNORED].max() >= 98


def test_jitter_is_torchvisions():
    images = pairs((8, 8))[0].float() / 255 * 0.2 + 0.4  # far from 0 and 1
    factors = 0.8 + 0.4 * torch.rand(N, 3, generator=torch.Generator().manual_seed(2))
    for image, result, (b, c, s) in zip(images, jitter(images, factors), factors, strict=True):
        expected = tv.adjust_brightness(image, float(b))
        expected = tv.adjust_saturation(tv.adjust_contrast(expected, float(c)), float(s))
        assert (result - expected).abs().max() < 2e-3  # they round the weights of grey


def test_jitter_leaves_the_mask_alone():
    images, labels = pairs()
    plan = plan_of()
    plainly, masks = augment_pair(images, labels, plan, AS_IS)
    found, same = augment_pair(images, labels, plan, replace(AS_IS, jitter=0.3))
    assert torch.equal(masks, same) and not torch.equal(found, plainly)
    assert (found.double() - plainly.double()).abs().mean() < 80
