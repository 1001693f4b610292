"""Scales as text: short for people, exact where two would read alike."""

from hptransfer.analysis.tables.scale_names import format_scale, format_size
from hptransfer.core.records import short


def test_sizes_are_short() -> None:
    assert list(map(format_size, (64, 0.5, 131072, 214663680, 4e9, 5.69e10, 2e12))) == [
        *("64", "0.5", "131072", "214.7M", "4B", "56.9B", "2T")
    ]


def test_sizes_of_any_magnitude_are_as_people_write_them() -> None:
    """No padded exponent, and no exponent before a unit."""
    sizes = (1e15, 1e21, 1.5e21, 1e-5, 2e-12, 999_960, 999_960_000, 9.9996e11, 9.9e14, 1e30, 1e300)
    assert list(map(format_size, sizes)) == [
        *("1e15", "1e21", "1.5e21", "1e-5", "2e-12", "999960", "1B", "1T", "990T", "1e30", "1e300")
    ]


def test_numbers_of_any_magnitude_are_as_people_write_them() -> None:
    numbers = (0.01563, 64.0, 65536, 65536.0, 52431.7, 524312.7, 1.0737e9, 1e-5, 1.234e-5, 1e21, 10**21, 0.0)
    assert list(map(short, numbers)) == [
        *("0.01563", "64", "65536", "65536", "52430", "524300", "1.074e9", "1e-5", "1.234e-5", "1e21", "1e21", "0")
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
