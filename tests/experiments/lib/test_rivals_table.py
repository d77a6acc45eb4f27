"""The second table, short: published figures above measured ones."""

from experiments.lib.rivals_table import short


def test_methods_stand_side_by_side_with_their_better_figure_and_what_is_missing_stays_empty():
    settings = {"recipe": {"epochs": 10}}
    rows = [
        {"name": name, "accuracy": accuracy, "settings": settings}
        for name, accuracy in (
            ("plain images", 0.8785),
            *(("ELE", 0.42), ("ELE, adapted", 0.52), ("EtC", 0.66), ("EtC, adapted", 0.55)),
        )
    ]
    ours = {"ours, with the key": 0.945}
    heading, _, *lines = short({"rows": rows}, "here, large", ours).splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in (heading, *lines)]
    by_name = dict(zip(cells[0], zip(*cells[1:], strict=True), strict=True))
    assert by_name["CIFAR-10, accuracy"] == (
        "published, networks of full size",
        "here, large",
        "here, small networks, epochs: 10",
    )
    assert by_name["plain images"] == ("", "", "87.85%")
    assert by_name["ours, with the key"] == ("95.06%", "94.50%", "")
    assert by_name["ELE"] == ("83.06%", "", "52.00%")
    assert by_name["EtC"] == ("", "", "66.00%")
    assert by_name["EtC as published"] == ("89.09%", "", "")
    assert by_name["PrivConv (inferred)"] == ("92.65%", "", "")
