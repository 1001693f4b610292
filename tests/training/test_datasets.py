"""Data: the same for the same (seed, step), files on one side of the split only, clear refusals."""

from pathlib import Path

import pytest
import torch

from hptransfer.core.errors import DataError
from hptransfer.training.datasets.stdlib import StdlibConfig


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    data = StdlibConfig().load()
    once, again = (data.batch(seed=1, step=5, batch=4, sequence=16)[0] for _ in range(2))
    assert torch.equal(once, again)
    assert not torch.equal(once, data.batch(seed=1, step=6, batch=4, sequence=16)[0])
    assert not torch.equal(once, data.batch(seed=2, step=5, batch=4, sequence=16)[0])


def test_targets_are_the_next_bytes() -> None:
    inputs, targets = StdlibConfig().load().batch(seed=0, step=0, batch=4, sequence=16)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_no_file_is_on_both_sides_and_the_fingerprint_knows_every_byte(tmp_path: Path) -> None:
    for index in range(100):
        (tmp_path / f"m{index}.py").write_text(f"{index:03d}" * 400)
    data = StdlibConfig(path=str(tmp_path)).load()
    train = set(bytes(data._train).split(b"\n"))
    held_out = set(bytes(data._held_out).split(b"\n"))
    assert train.isdisjoint(held_out)
    assert len(train) + len(held_out) == 100
    assert 0 < len(held_out) < 30
    other = tmp_path / "other"
    other.mkdir()
    for index in range(100):
        (other / f"m{index}.py").write_text(f"{index:03d}" * 400)
    assert StdlibConfig(path=str(other)).load().fingerprint == data.fingerprint
    changed = tmp_path / "changed"
    changed.mkdir()
    for index in range(100):
        (changed / f"m{index}.py").write_text(f"{index:03d}" * 400 + ("!" if index == 7 else ""))
    assert StdlibConfig(path=str(changed)).load().fingerprint != data.fingerprint


def test_validation_windows_are_fixed() -> None:
    data = StdlibConfig().load()
    assert torch.equal(data.validation(windows=8, sequence=16)[0], data.validation(windows=8, sequence=16)[0])


def test_no_validation_data_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "only.py").write_text("x = 1\n" * 100)
    data = StdlibConfig(path=str(tmp_path)).load()
    with pytest.raises(DataError, match=r"0 bytes of validation text, 33 are needed; point run.data.path"):
        data.validation(windows=2, sequence=16)


def test_a_folder_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*.py file under"):
        StdlibConfig(path=str(tmp_path)).load()
