"""The members pass their families' contract kits."""

from hptransfer.testing import laws, optimizers


def test_the_law_passes_its_kit():
    for check in laws.CHECKS:
        check("curved")


def test_the_optimizer_passes_its_kit():
    for check in optimizers.CHECKS:
        check("signum")
