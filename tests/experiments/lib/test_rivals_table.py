"""The second table, short: published figures above measured ones."""

from experiments.lib.rivals_table import short


def test_methods_stand_side_by_side_and_what_is_missing_stays_empty():
    settings = {"recipe": {"epochs": 10}}
    rows = [
        {"name": name, "accuracy": accuracy, "settings": settings}
        for name, accuracy in (("plain images", 0.8785), ("ELE", 0.5))
    ]
    heading, _, published, here = short({"budget": "cpu", "rows": rows}).splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in (heading, published, here)]
    by_name = dict(zip(cells[0], zip(cells[1], cells[2], strict=True), strict=True))
    assert by_name["CIFAR-10, accuracy"] == (
        "published, networks of full size",
        "here, small networks, epochs: 10",
    )
    assert by_name["plain images"] == ("", "87.85%")
    assert by_name["ours, with the key"] == ("95.06%", "")
    assert by_name["ELE, adapted"] == ("83.06%", "")
    assert by_name["EtC as published, adapted"] == ("89.09%", "")
    assert by_name["PrivConv (inferred)"] == ("92.65%", "")
    assert "50.00%" not in here  # ELE without adaptation is not among them
