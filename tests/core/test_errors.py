"""Messages of unknown names."""

from hptransfer.core.errors import unknown

NAMES = [f"setting_{number}" for number in range(30)]


def test_a_few_names_are_all_listed() -> None:
    assert (
        unknown("law", "brken", ["power", "broken"])
        == "unknown law 'brken'. Did you mean 'broken'? Known: broken, power"
    )
    assert unknown("law", "x", []) == "unknown law 'x'. Known: none"


def test_of_many_names_those_like_the_unknown_one_are_listed_first() -> None:
    message = unknown("column", "loss", [*NAMES, "val.loss", "loss_se"], most=6)
    assert "Known: " in message
    listed = message.partition("Known: ")[2]
    assert listed.endswith(" and 30 more")
    assert {"val.loss", "loss_se"} <= set(listed.split(" and ")[0].split(", "))
    assert unknown("run", "x", [f"run-{number}" for number in range(500)]).endswith(" and 494 more")


def test_the_last_part_of_a_name_counts() -> None:
    assert "Did you mean 'optim.lr'?" in unknown("column", "lr", [*NAMES, "optim.lr"], most=6)
