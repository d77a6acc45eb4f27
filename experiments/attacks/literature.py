"""The attacks by which papers on ciphers for pictures judge them, on every scheme.

    FR                 feature reconstruction: v if v < 128, else 255 - v
    ITN local, global  inverse transformation networks (``experiments/lib/itn.py``), from pairs that
                       the attacker made with keys of his own, one for each picture, or that he has
                       under the same key as what he attacks
    GAN                unpaired ciphertexts, under the same key, and pictures of the attacker's own
                       (``experiments/lib/gan.py``)
    jigsaw             blocks put together by their borders (``experiments/lib/jigsaw.py``), of one
                       picture at a time or of many that share a key; how the picture is turned and
                       coloured as a whole is left to a person's eye: the nearest is scored

Each row says how near what the attack gives is to the pictures, and how often a plain network
recognises it. It is written to ``OUT_DIR/rows/`` as soon as it is known and not measured again.

    python3 literature.py -data_dir DIR -attack FR jigsaw -scheme etc:4
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import conf
import torch

from experiments.lib import gan, itn, jigsaw, literature_table, schemes
from experiments.lib.ciphertexts import KEY, SCHEMES
from experiments.lib.report import psnr, show, ssim
from experiments.lib.results import collect_results, pictures_sha256, read_results
from operators import SecretKey
from utils import cli
from utils.cli import flags
from utils.data.datasets import ImageSet, load_split
from utils.inference.evaluation import all_logits, count_correct
from utils.inference.network import Deployed, deploy, load
from utils.io import checkpoint
from utils.io.run_record import environment, public_command, write_json

CPU = torch.device("cpu")
NET = "preresnet20"
LOCAL_EPOCHS, GAN_STEPS = 10, 800
PUZZLES = 200  # test pictures that are put together one by one
SHARING = 100  # that share a key, from which the jigsaw learns how blocks lie


def parse_args():
    parser = schemes.parser(__doc__.splitlines()[0], "literature")
    parser.add_argument(
        "-attack", choices=ATTACKS, nargs="+", default=list(ATTACKS), help="attacks to try"
    )
    parser.add_argument(
        "-scheme", choices=SCHEMES, nargs="+", default=list(SCHEMES), help="schemes to attack"
    )
    parser.add_argument(
        "-train_images", type=cli.positive_int, default=10_000, help="pictures of the attacker's"
    )
    parser.add_argument("-test_images", type=cli.positive_int, default=1000, help="scored pictures")
    parser.add_argument(
        "-weights",
        type=Path,
        default=conf.CHECKPOINT_DIR / f"{NET}.pt",
        help=f"plain {NET} that classifies what attacks give",
    )
    args = parser.parse_args()
    if args.train_images < 100:
        parser.error(f"-train_images: expected at least 100, got {args.train_images}")
    return args


@dataclass(frozen=True)
class Case:
    """What an attacker has.

    Attributes:
        scheme: its name; the attacker knows how it works, not the key.
        own: pictures of the attacker's, uint8 ``(M, 3, H, W)``.
        pictures: those under attack; they judge what an attack gives.
    """

    scheme: str
    own: torch.Tensor
    pictures: torch.Tensor

    @cached_property
    def _under_the_key(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ciphertexts of all pictures in one call: no two share a nonce."""
        scramble = SCHEMES[self.scheme](tuple(self.own.shape[2:]), KEY)
        both = scramble(torch.cat([self.own, self.pictures]), 0)
        return both[: len(self.own)], both[len(self.own) :]

    @property
    def same_key(self) -> torch.Tensor:
        """The attacker's pictures under the key that he does not know."""
        return self._under_the_key[0]

    @property
    def ciphertexts(self) -> torch.Tensor:
        """What is to be deciphered."""
        return self._under_the_key[1]

    @cached_property
    def other_keys(self) -> torch.Tensor:
        """The attacker's pictures, each under a key of his own."""
        size, secret = tuple(self.own.shape[2:]), SecretKey(bytes(32))
        keys = secret.nonces(2 * len(self.own), b"keys of the attacker's")  # 16 bytes each
        each = zip(keys[::2], keys[1::2], self.own, strict=True)
        return torch.cat([SCHEMES[self.scheme](size, a + b)(x[None], 0) for a, b, x in each])

    def inputs(self, ciphertexts: torch.Tensor) -> torch.Tensor:
        """What a network is shown: the values, or halves where the cipher moves these."""
        shown = itn.halves if self.scheme in ("le", "ele") else itn.values
        return shown(ciphertexts)


Attack = Callable[[Case], tuple[torch.Tensor, dict]]  # recovered pictures, further columns


def none(case: Case) -> tuple[torch.Tensor, dict]:
    """The ciphertexts as they are."""
    return case.ciphertexts, {}


def feature_reconstruction(case: Case) -> tuple[torch.Tensor, dict]:
    """Undoes inversions of values, if they were dark."""
    seen = case.ciphertexts
    return torch.where(seen < 128, seen, 255 - seen), {}


def inverse_network(fit: Callable, same_key: bool) -> Attack:
    """Learns from pairs to go back."""

    def attack(case: Case) -> tuple[torch.Tensor, dict]:
        pairs = case.same_key if same_key else case.other_keys
        back = fit(case.inputs(pairs), itn.values(case.own))
        return itn.to_images(back(case.inputs(case.ciphertexts))), {}

    return attack


def adversarial(case: Case) -> tuple[torch.Tensor, dict]:
    """The attacker's pictures are parted in two: ciphertexts of some, others in plain."""
    half = len(case.own) // 2
    seen = case.inputs(case.same_key[half:])
    back = gan.fit(seen, itn.values(case.own[:half]), GAN_STEPS)
    return itn.to_images(back(case.inputs(case.ciphertexts))), {}


def puzzle(shared: bool) -> Attack:
    """Puts blocks together: one picture by one, or as they lie in all that share a key."""

    def attack(case: Case) -> tuple[torch.Tensor, dict]:
        cipher, _, side = case.scheme.split()[0].partition(":")
        side, colours = int(side), jigsaw.ETC if cipher == "etc" else jigsaw.UNCHANGED
        white = jigsaw.border_whitening(case.own, side)
        seen = case.ciphertexts[:PUZZLES]
        groups = [seen[:SHARING]] if shared else seen.split(1)
        apply_to = [seen] if shared else groups
        laid = []
        for group, whole in zip(groups, apply_to, strict=True):
            solver = jigsaw.Puzzle(group, side, white, colours)
            laid.append(solver.assemble(whole, solver.solve()))
        found, true = torch.cat(laid), case.pictures[: len(seen)]
        pairs = zip(found, true, strict=True)
        shares = [jigsaw.right_pairs(*pair, side, colours) for pair in pairs]
        return jigsaw.nearest(found, true, colours), {"right pairs": sum(shares) / len(shares)}

    return attack


ATTACKS: dict[str, Attack] = {
    "none": none,
    "FR": feature_reconstruction,
    "jigsaw, one picture": puzzle(shared=False),
    "jigsaw, many pictures": puzzle(shared=True),
    "ITN global, same key": inverse_network(itn.fit_dense, same_key=True),
    "ITN global, other keys": inverse_network(itn.fit_dense, same_key=False),
    "ITN local, same key": inverse_network(
        lambda *pairs: itn.fit_local(*pairs, LOCAL_EPOCHS), same_key=True
    ),
    "ITN local, other keys": inverse_network(
        lambda *pairs: itn.fit_local(*pairs, LOCAL_EPOCHS), same_key=False
    ),
    "GAN": adversarial,
}


def applies(attack: str, scheme: str) -> bool:
    """Whether an attack can be tried on a scheme: only blocks can be put together."""
    if not attack.startswith("jigsaw"):
        return True
    one_key = "per image" not in scheme
    return scheme.startswith(("etc", "blocks")) and (one_key or attack == "jigsaw, one picture")


def main() -> None:
    args = parse_args()
    flags.writable_folder(args.out_dir, "-out_dir")
    deployed = deploy(NET, load(args.weights, args.dataset), CPU)
    args.settings = _settings(args, deployed)
    recognised = _classifier(deployed)
    own, _ = schemes.shuffled_images(args, "train", args.train_images)
    pictures, labels = schemes.shuffled_images(args, "test", args.test_images)
    done = {}
    for attack in ATTACKS:
        for scheme in SCHEMES:
            if not applies(attack, scheme):
                continue
            row = _read(args, attack, scheme)
            if row is None and attack in args.attack and scheme in args.scheme:
                started = time.perf_counter()
                recovered, more = ATTACKS[attack](Case(scheme, own, pictures))
                seconds = time.perf_counter() - started
                true = pictures[: len(recovered)]
                row = {"attack": attack, "scheme": scheme, **more}
                row |= {"SSIM": ssim(true, recovered), "PSNR": psnr(true, recovered)}
                row["accuracy"] = recognised(recovered, labels)
                row["plain accuracy"] = recognised(true, labels)
                row |= {"images": len(recovered), "seconds": seconds}
                _write(args, row)
                show(row)
            if row is not None:
                done[attack, scheme] = row
    rows = list(done.values())
    about = literature_table.about(rows)
    record = {"attack": "literature", "about": about, "rows": rows}
    record["best"] = literature_table.best(rows)
    text = f"{about}\n\n{literature_table.markdown(rows)}"
    collect_results(args.out_dir, "literature", record, text)


def _classifier(deployed: Deployed) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """The accuracy of the plain network on uint8 images of the first of some labels."""

    def accuracy(images: torch.Tensor, labels: torch.Tensor) -> float:
        data = ImageSet(images, labels[: len(images)], deployed.classes)
        logits = all_logits(deployed.net, deployed.preprocess, data, 250, CPU, quiet=True)
        return count_correct(logits, data.labels) / len(data)

    return accuracy


def _settings(args, deployed: Deployed) -> dict:
    """What a row depends on beside its attack and scheme."""
    splits = [load_split(args.dataset, split, args.data_dir).images for split in ("train", "test")]
    named = {"train_images": args.train_images, "test_images": args.test_images}
    named |= {"local_epochs": LOCAL_EPOCHS, "gan_steps": GAN_STEPS}
    named |= {"puzzles": PUZZLES, "sharing": SHARING}
    named |= {"dataset": args.dataset, "pictures_sha256": pictures_sha256(*splits)}
    return named | {"weights_sha256": checkpoint.digest(deployed.net.state_dict())}


def _path(args, attack: str, scheme: str) -> Path:
    slug = re.sub("[^a-z0-9]+", "_", f"{attack} {scheme}".lower())
    return args.out_dir / "rows" / f"{slug}.json"


def _write(args, row: dict) -> None:
    path = _path(args, row["attack"], row["scheme"])
    path.parent.mkdir(parents=True, exist_ok=True)
    origin = {"command": public_command(), "environment": environment()}
    write_json(path, origin | {"settings": args.settings, "row": row})


def _read(args, attack: str, scheme: str) -> dict | None:
    """A row that was measured already, or None."""
    record = read_results(_path(args, attack, scheme), {"settings": args.settings}, "row")
    return None if record is None else record["row"]


if __name__ == "__main__":
    cli.run(main)
