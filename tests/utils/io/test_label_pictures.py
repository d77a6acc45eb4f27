"""Label maps as pictures: known colours, half of the picture, a line for each class seen."""

import pytest
import torch

from utils.data.masks import IGNORED
from utils.data.segmentation import MASK_DATASETS
from utils.io.label_pictures import CAMVID_COLOURS, LINE, NONE, coloured, legend, overlay, palette

VOC, CAMVID = (MASK_DATASETS[name].classes for name in ("voc2012", "camvid"))


def test_voc_has_its_own_colours():
    colours = palette(VOC).tolist()
    published = {0: [0, 0, 0], 1: [128, 0, 0], 2: [0, 128, 0], 8: [64, 0, 0], 15: [192, 128, 128]}
    assert {label: colours[label] for label in published} == published
    assert colours[20] == [0, 64, 128] and colours[255] == [224, 224, 192]


def test_camvid_has_its_own_colours():
    assert set(CAMVID) == set(CAMVID_COLOURS)
    assert [tuple(colour) for colour in palette(CAMVID)[:11].tolist()] == [
        CAMVID_COLOURS[name] for name in CAMVID
    ]


@pytest.mark.parametrize("classes", [VOC, CAMVID, ("sky", "kite"), tuple(map(str, range(255)))])
def test_no_two_labels_look_the_same(classes):
    colours = palette(classes)[[*range(min(len(classes), 254)), NONE]]
    assert colours.dtype == torch.uint8 and NONE == IGNORED
    assert len(colours.unique(dim=0)) == len(colours)
    if classes[0] != "background":
        assert colours.any(1).all()  # no black


def test_maps_are_coloured_pixel_by_pixel():
    labels = torch.tensor([[[0, 15, 255], [3, 3, 20]]] * 2)
    picture, colours = coloured(labels, VOC), palette(VOC)
    assert picture.shape == (2, 3, 2, 3) and picture.dtype == torch.uint8
    for y in range(2):
        for x in range(3):
            assert torch.equal(picture[1, :, y, x], colours[labels[1, y, x]])
    assert torch.equal(coloured(labels[0].to(torch.uint8), VOC), picture[0])


def test_overlay_is_half_of_each_and_the_picture_where_nothing_is_said():
    image = torch.full((3, 1, 2), 100, dtype=torch.uint8)
    image[:, 0, 1] = 255
    mixed = overlay(image, torch.tensor([[1, 255]]), VOC)
    assert mixed[:, 0, 0].tolist() == [114, 50, 50] and mixed[:, 0, 1].tolist() == [255] * 3
    white = overlay(torch.full((3, 1, 1), 255, dtype=torch.uint8), torch.tensor([[1]]), VOC)
    assert white.flatten().tolist() == [192, 128, 128]  # no overflow


def test_legend_names_the_classes_that_occur():
    labels = torch.tensor([[3, 3, 8], [255, 0, 8]])
    picture = legend(labels, CAMVID)
    seen = picture.flatten(1).T.unique(dim=0).tolist()
    for label, name in enumerate(CAMVID):
        assert (list(CAMVID_COLOURS[name]) in seen) == (label in (0, 3, 8))
    lines = [picture[:, LINE * i + 4 : LINE * i + 16, 20:] for i in range(3)]
    assert all((line < 128).any() for line in lines)  # there is text in each
    assert not torch.equal(lines[0], lines[1])
    assert legend(torch.tensor([[255]]), CAMVID).shape[0] == 3
