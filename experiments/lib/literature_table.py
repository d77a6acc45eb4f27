"""The attacks of the literature as tables: every scheme and attack, and the best of each scheme."""

from experiments.lib.ciphertexts import SCHEMES
from experiments.lib.report import markdown as rows_markdown
from experiments.lib.tables import markdown_table

# SSIM of ciphertexts and attacks as published: Sirichotedumrong and Kiya, "Visual security
# evaluation of learnable image encryption methods against ciphertext-only attacks", APSIPA 2020
PUBLISHED = {
    "le": {"none": 0.006, "FR": 0.017, "GAN": 0.774, "ITN local, same key": 0.407},
    "etc:4": {"none": 0.001, "FR": 0.010, "GAN": 0.031, "ITN local, same key": 0.529},
    "ele": {"none": 0.061, "FR": 0.001, "GAN": 0.021, "ITN local, same key": 0.001},
}
NO_ATTACK = "none"


def about(rows: list[dict]) -> str:
    """What ``markdown`` shows."""
    plain = {row["plain accuracy"] for row in rows}
    shown = ", ".join(f"{accuracy:.1%}" for accuracy in sorted(plain))
    return (
        "What each attack makes of ciphertexts: SSIM, PSNR and the plain network's accuracy on it "
        f"({shown} on untouched pictures), and of jigsaws the share of right neighbours."
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


def grid(rows: list[dict], column: str = "SSIM") -> str:
    """A row for each scheme, a column for each attack; the published SSIM in brackets."""
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    by_name = {(row["scheme"], row["attack"]): row for row in rows}
    lines = []
    for scheme in dict.fromkeys(row["scheme"] for row in rows):
        cells = []
        for attack in attacks:
            row = by_name.get((scheme, attack))
            published = PUBLISHED.get(scheme, {}).get(attack)
            bracket = "" if published is None or column != "SSIM" else f" ({published:.3f})"
            shown = "{:.3f}" if column == "SSIM" else "{:.1%}"
            cells.append("" if row is None else shown.format(row[column]) + bracket)
        lines.append([scheme, *cells])
    return markdown_table(["scheme", *attacks], lines, left=1)
