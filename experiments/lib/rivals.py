"""The rows of the paper's second table: networks, the pictures they see, how they are trained."""

import re
from dataclasses import dataclass, field

SEED = 30  # of EtC's published key
CIFAR = (32, 32)


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: in the table.
        net: a name of the registry of networks.
        cipher: of its pictures; None for plain ones.
        published: accuracy, where there is one.
        preset, changes: its recipe, and fields that differ from it.
        uses: the row whose weights it is tested with; None to train its own.
        image_size: ``(H, W)`` of what the network sees.
    """

    name: str
    net: str
    cipher: str | None
    published: float | None = None
    preset: str = "fast"
    changes: dict = field(default_factory=dict)
    uses: str | None = None
    image_size: tuple[int, int] = CIFAR

    @property
    def slug(self) -> str:
        """The name as that of a file."""
        return re.sub("[^a-z0-9]+", "_", self.name.lower()).strip("_")

    @property
    def resized(self) -> bool:
        """Whether it sees larger pictures than those of CIFAR-10."""
        return self.image_size != CIFAR


def _ours(net: str, published: tuple[float | None, float | None, float | None], **recipe) -> list:
    """Plain weights, and what they do on scrambled pictures with the key and without."""
    tested = {"uses": "plain images"} | recipe
    plain, with_key, without = published
    return [
        Row("plain images", net, None, plain, **recipe),
        Row("ours, with the key", f"{net}_permuted", "pixels", with_key, **tested),
        Row("ours, without the key", net, "pixels", without, **tested),
        Row("ours on EtC's pictures, with the key", f"{net}_permuted", "etc:4", **tested),
    ]


def _learned(net: str, published: dict[str, float], **recipe) -> list:
    """The same classifier trained behind each cipher, without and with adaptation network."""
    rows = []
    for name, cipher, adapted in (
        ("LE", "le", "adapted_le"),
        ("ELE", "ele", "adapted"),
        ("EtC", "etc:4", "adapted"),
        ("EtC as published", "etc_published", "adapted"),
        ("blocks", "blocks:4", "adapted"),
    ):
        rows.append(Row(name, net, cipher, published.get(name), **recipe))
        name = f"{name}, adapted"
        rows.append(Row(name, f"{net}_{adapted}", cipher, published.get(name), **recipe))
    return rows


_SMALL = {"preset": "fast", "changes": {"epochs": 10, "init": "default"}}
_SHAKEDROP = {"preset": "shakedrop"}
# Perez, Lopez and Arguello, ICASSP 2024, table 2; without adaptation, Madono et al., 2020. The code
# behind the published EtC is that of "EtC as published".
BUDGETS = {
    "cpu": [
        *_ours("preresnet20", (None, None, None), **_SMALL),
        *_learned("preresnet20", {}, **_SMALL),
        Row(
            "PrivConv (inferred)",
            "convmixer256_8",
            "privconv",
            **(_SMALL | {"changes": _SMALL["changes"] | {"optimizer": "adamw", "lr": 0.01}}),
        ),
    ],
    "full": [
        *_ours("preresnet110", (None, 0.9506, None), preset="preresnet110-best"),
        Row("ShakeDrop, plain images", "pyramidnet110", None, 0.9670, **_SHAKEDROP),
        *_learned(
            "pyramidnet110",
            {
                "ELE": 0.6710,
                "ELE, adapted": 0.8306,
                "EtC as published": 0.8594,
                "EtC as published, adapted": 0.8909,
            },
            **_SHAKEDROP,
        ),
        Row(
            "PrivConv (inferred)",
            "convmixer512_16",
            "privconv",
            0.9265,
            preset="convmixer",
            image_size=(224, 224),
        ),
    ],
}
