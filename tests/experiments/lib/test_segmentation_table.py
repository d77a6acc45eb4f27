"""The table of segmentation as pages show it."""

import pytest

from experiments.lib import accuracy_table, segmentation_table
from operators import ImageScrambler
from utils.runtime.errors import UserError


def row(name, same, iou):
    values = {"miou": 0.5123, "pixel_accuracy": 0.875, "iou": iou, "same_maps": same}
    return {"name": name, "same_pixels": 1.0, **values}


def table(seed=1312, weights="net.pt"):
    return {
        "command": "table_segmentation.py -net unet -dataset camvid -data_dir camvid -seed *** "
        f"-weights {weights} -out_dir results",
        "net": "unet",
        "dataset": "camvid",
        "classes": ["sky", "road"],
        "key": ImageScrambler((180, 240), seed=seed).fingerprint,
        "weights": weights,
        "weights_sha256": "0123456789abcdef0123",
        "images": 233,
        "rows": [
            row("plain images", 233, [0.9, None]),
            row("keyed network, right key", 233, [0.9, 0.1]),
        ],
        "cost": [
            {
                "size": [180, 240],
                "plain_s": 0.1,
                "keyed_s": 0.125,
                "ratio": 1.25,
                "rounds": 7,
                "peak_bytes": {"plain": 3 * 2**20, "keyed": None},
                "build_s": 0.5,
            }
        ],
        "training": None,
    }


def test_what_is_shown():
    shown = segmentation_table.markdown(table())
    assert "| unet on camvid | mean IoU, 2 classes |" in shown
    assert "| keyed network, right key | 51.2% | 87.5% | 233 of 233 |" in shown
    assert "| road | - | 10.0% |" in shown
    assert "| 180x240 | 100 | 125 | 1.25 | 3 | - | 0.50 |" in shown


def test_the_first_page_has_it_beside_the_classifiers():
    heading, cells = segmentation_table.column(table())
    assert heading == "unet on camvid, mean IoU" and cells["plain images"] == "51.23%"
    accuracy = {"name": "plain images", "published": None, "accuracy": 0.9, "images": 10}
    other = accuracy | {"name": "fine-tuned on scrambled images"}
    shown = accuracy_table.side_by_side(
        [
            {
                "net": "vgg16",
                "dataset": "cifar10",
                "rows": [accuracy, other],
                "same_predictions": 10,
                "largest_logit_difference": 0.0,
            }
        ],
        (heading, cells),
    )
    assert "| plain images |  | 90.00% | 51.23% |\n" in shown
    assert "| fine-tuned on scrambled images |  | 90.00% |  |\n" in shown
    assert segmentation_table.agreement(table()).startswith("233 of 233 label maps of unet")


def test_commands_can_be_pasted():
    (command,) = segmentation_table.commands(table(weights="preresnet20.pt"), "results")
    assert command == (
        "python3 experiments/segmentation/table_segmentation.py -net unet -dataset camvid "
        "-data_dir DIR -seed 1312 -weights checkpoints/preresnet20.pt -out_dir results"
    )
    trained = table() | {"training": {"command": "train_voc.py -resume latest -data_dir camvid"}}
    first, second = segmentation_table.commands(trained, "results")
    assert first == "python3 experiments/segmentation/train_voc.py -data_dir DIR"
    assert " -weights PATH " in second
    with pytest.raises(UserError, match="is not seed 1312"):
        segmentation_table.commands(table(seed=5), "results")
