"""Registries list members without importing them, and name the known ones in errors."""

import subprocess
import sys

import pytest

from hptransfer.core.errors import ConfigError
from hptransfer.core.registry import Registry


def test_a_wrong_name_gets_the_nearest_one() -> None:
    registry: Registry[object] = Registry("optimizer", "hptransfer.training.optimizers")
    with pytest.raises(ConfigError, match=r"unknown optimizer 'adamww'. Did you mean 'adamw'\? Known: adafactor"):
        registry.get("adamww")


def test_listing_imports_no_torch() -> None:
    code = """
import sys
from hptransfer.core.registry import Registry
registry = Registry("model", "hptransfer.training.models")
assert "transformer" in registry.names(), registry.names()
assert registry.summary("transformer").startswith("Decoder-only transformer")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
