"""Scales as text: short for people, exact where two would read alike."""

from hptransfer.analysis.tables.scale_names import format_scale, format_size


def test_sizes_are_short() -> None:
    assert list(map(format_size, (64, 0.5, 131072, 214663680, 4e9, 5.69e10, 2e12))) == [
        *("64", "0.5", "131072", "214.7M", "4B", "56.9B", "2T")
    ]


def test_a_scale_is_short() -> None:
    assert format_scale({"params": 214663680, "tokens": 4e9}) == "params=214.7M, tokens=4B"


def test_scales_that_read_alike_have_exact_digits() -> None:
    one, other = {"params": 214663680.0, "age": 2.0}, {"params": 214663681.0, "age": 2.0}
    assert format_scale(one, [one, other]) == "params=214663680, age=2"
    assert format_scale(other, [one, other]) == "params=214663681, age=2"
    assert format_scale(one, [one, {"params": 4e8, "age": 2.0}]) == "params=214.7M, age=2"  # the control
    near = [{"size": 1.0001101}, {"size": 1.0001102}]
    assert [format_scale(scale, near) for scale in near] == ["size=1.0001101", "size=1.0001102"]
