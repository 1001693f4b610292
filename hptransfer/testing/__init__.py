"""Contract kits: checks for members of a family, built in or not.

There is one module for each family: launchers, runners, samplers, trackers, datasets, models, optimizers, laws,
estimators and parameterizations. A check is a function of the member's registered name (or of its settings) that raises
AssertionError. `CHECKS` of a module lists those that need nothing else:

    import pytest
    from hptransfer.testing import optimizers

    @pytest.mark.parametrize("check", optimizers.CHECKS)
    def test_my_optimizer(check):
        check("my_optimizer")

pytest is not needed. Under pytest, `pytest.register_assert_rewrite("hptransfer.testing")` in a conftest.py shows the
values of a failed check.
"""
