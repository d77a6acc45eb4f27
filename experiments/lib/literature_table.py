"""The attacks of the literature as tables: every scheme and attack, and the best of each scheme."""

from experiments.lib.ciphertexts import SCHEMES
from experiments.lib.report import markdown as rows_markdown
from experiments.lib.tables import markdown_table

# SSIM of ciphertexts and attacks as published: Sirichotedumrong and Kiya, "Visual security
# evaluation of learnable image encryption methods against ciphertext-only attacks", APSIPA 2020.
# We do not know under which keys the pairs of its ITN were. It stands beside the same key, without
# which 0.529 on EtC, whose blocks move, would be hard to explain.
PUBLISHED = {
    "le": {"none": 0.006, "FR": 0.017, "GAN": 0.774, "ITN local, same key": 0.407},
    "etc:4": {"none": 0.001, "FR": 0.010, "GAN": 0.031, "ITN local, same key": 0.529},
    "ele": {"none": 0.061, "FR": 0.001, "GAN": 0.021, "ITN local, same key": 0.001},
}
NO_ATTACK = "none"


def about(rows: list[dict]) -> str:
    """What ``markdown`` shows."""
    plain = {row["images"]: row["plain accuracy"] for row in rows}
    shown = ", ".join(f"{share:.1%} on {count:,} untouched ones" for count, share in plain.items())
    return (
        "What each attack makes of ciphertexts: SSIM, PSNR and the plain network's accuracy on it "
        f"({shown}), and of jigsaws the share of right neighbours."
    )


def markdown(rows: list[dict]) -> str:
    """Every row, with the published SSIM where there is one."""
    columns = ("attack", "scheme", "right pairs", "SSIM", "PSNR", "accuracy", "images", "seconds")
    shown = [{column: row.get(column) for column in columns} for row in rows]
    for row in shown:
        published = PUBLISHED.get(row["scheme"], {}).get(row["attack"])
        row["published SSIM"] = "" if published is None else f"{published:.3f}"
    return rows_markdown(shown)


def best(rows: list[dict]) -> dict[str, dict]:
    """By scheme, the attack on whose results the plain network is most accurate."""
    attacked = [row for row in rows if row["attack"] != NO_ATTACK]
    found = {}
    for scheme in SCHEMES:
        of_scheme = [row for row in attacked if row["scheme"] == scheme]
        if of_scheme:
            found[scheme] = max(of_scheme, key=lambda row: (row["accuracy"], row["SSIM"]))
    return found


def grid(rows: list[dict], column: str) -> str:
    """A row for each scheme, a column for each attack; beside an SSIM the published one."""
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    by_name = {(row["scheme"], row["attack"]): row for row in rows}
    attacked = {row["scheme"] for row in rows}
    return markdown_table(
        ["scheme", *attacks],
        (
            [scheme, *(_cell(by_name.get((scheme, attack)), column) for attack in attacks)]
            for scheme in SCHEMES
            if scheme in attacked
        ),
        left=1,
    )


def _cell(row: dict | None, column: str) -> str:
    if row is None or column not in row:
        return ""
    if column != "SSIM":
        return f"{row[column]:.1%}"
    published = PUBLISHED.get(row["scheme"], {}).get(row["attack"])
    return f"{row[column]:.3f}" + ("" if published is None else f" ({published:.3f})")


def jigsaws(rows: list[dict]) -> str:
    """The share of right neighbours of each scheme that has blocks to put together."""
    return grid([row for row in rows if "right pairs" in row], "right pairs")


def summary(rows: list[dict]) -> str:
    """The best attack on each scheme."""
    shares = ("accuracy", "plain accuracy")
    lines = [
        [scheme, row["attack"], f"{row['SSIM']:.3f}", *(f"{row[share]:.1%}" for share in shares)]
        for scheme, row in best(rows).items()
    ]
    headings = ["scheme", "best attack", "SSIM", "accuracy", "untouched"]
    return markdown_table(headings, lines, left=2)
