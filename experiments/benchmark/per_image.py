"""What per-image keys cost: VGG16 from uint8 images to logits, in interleaved rounds.

    python3 per_image.py -out_dir results

Every candidate starts from the batch that the server received and includes deriving the keys from
the nonces. ``fixed`` is the keyed network under one key. ``per-image`` and ``per-image values``
rekey the batch and run that same network; ``per-image maps`` gives the inner maps, too, a key for
each image.
"""

from dataclasses import asdict

import conf  # noqa: F401
import torch

from experiments.lib import benchmark_flags
from experiments.lib.results import write_results
from experiments.lib.speed_table import per_image_table
from experiments.lib.timing import time_side_by_side
from models import create_model
from models.per_image import PerImageNetwork
from operators import PerImageScrambler, SecretKey
from operators.key import new_nonces
from utils import cli

SECRET = SecretKey(bytes(range(32)))


def parse_args():
    parser = cli.Parser("Time per-image keys beside one key for all images.")
    parser.add_argument("-b", type=cli.positive_int, default=64, help="images per batch")
    benchmark_flags.add(parser, "per_image.json")
    return parser.parse_args()


def candidates(batch: int, device: torch.device) -> dict:
    """What to time, by name; each a function without arguments."""
    torch.manual_seed(0)
    pixels, values = (PerImageScrambler(32, SECRET, values=v) for v in (False, True))
    plain = create_model("vgg16").eval()
    keyed = create_model("vgg16_permuted", scrambler=pixels.fixed).eval()
    keyed.load_state_dict(plain.state_dict())
    images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8)
    nonces = new_nonces(batch)
    fixed = pixels.fixed(images).to(device)
    moved, mixed = (s.scramble(images, nonces).to(device) for s in (pixels, values))
    keyed, maps = (
        net.to(device, memory_format=torch.channels_last)
        for net in (keyed, PerImageNetwork(plain, pixels))
    )

    def ready(received: torch.Tensor) -> torch.Tensor:
        return (received.float() / 255).contiguous(memory_format=torch.channels_last)

    calls = {
        "fixed": lambda: keyed(ready(fixed)),
        "per-image": lambda: keyed(ready(pixels.rekey(moved, nonces))),
        "per-image values": lambda: keyed(ready(values.rekey(mixed, nonces))),
        "per-image maps": lambda: maps(ready(moved), nonces),
    }
    return {name: torch.inference_mode()(call) for name, call in calls.items()}


def main() -> None:
    args = parse_args()
    device = benchmark_flags.set_up(args)
    calls = candidates(args.b, device)
    timings = time_side_by_side(calls, dict.fromkeys(calls, "fixed"), args.rounds, device)
    rows = [{"candidate": name, **asdict(timing)} for name, timing in timings.items()]
    record = {"batch": args.b, "rows": rows}
    print(per_image_table(record), end="")
    if args.out_dir is not None:
        write_results(args.out_dir, "per_image", record)


if __name__ == "__main__":
    cli.run(main)
