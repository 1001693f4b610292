"""Datasets: batches by (seed, step), separate validation data, clear error messages."""

import dataclasses
import hashlib
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hptransfer.core.errors import ConfigError, DataError
from hptransfer.testing import datasets
from hptransfer.training.datasets import DATASETS, TOKENS, DataConfig, Dataset
from hptransfer.training.datasets.cifar10 import RECORDS, TEST, TRAIN, Cifar10Config
from hptransfer.training.datasets.digits import DigitsConfig
from hptransfer.training.datasets.polynomial import PolynomialConfig
from hptransfer.training.datasets.power_law import PowerLawConfig
from hptransfer.training.datasets.stdlib import StdlibConfig
from hptransfer.training.datasets.teacher import TeacherConfig
from hptransfer.training.datasets.token_file import TokenFileConfig, _scan
from hptransfer.training.loop import train
from hptransfer.training.models import MODELS
from tests.support.quadratics import power_law, power_law_loss
from tests.support.settings import small

FIRST = {"stdlib": [50, 54, 56, 51, 49, 56, 54, 52, 49, 50, 49, 51, 48, 48, 54, 52], "digits": [4, 5, 2, 1, 1, 9, 6, 7]}


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


def token_file(path: Path, tokens: Any, dtype: str = "<u2", *, header: tuple[int, int, int] | None = None) -> str:
    """Write tokens, after an optional header of (magic, version, count).

    Returns the path.
    """
    head = np.zeros(256, dtype="<i4")
    head[:3] = header or 0
    path.write_bytes((head.tobytes() if header else b"") + np.asarray(tokens).astype(dtype).tobytes())
    return str(path)


def tokens_of(path: str, **settings: Any) -> TokenFileConfig:
    return TokenFileConfig(path=path, **{"vocabulary": 1000, **settings})


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write files of the right size.

    Two records alternate in training; the test file has another one.
    """
    folder = tmp_path_factory.mktemp("cifar")
    pixels = np.arange(3072) % 200
    dark, light, other = (bytes([label]) + (pixels + label).astype(np.uint8).tobytes() for label in (1, 5, 9))
    (folder / TRAIN[0]).write_bytes((dark + light) * (RECORDS // 2))
    (folder / TEST).write_bytes(other * RECORDS)
    for name in TRAIN[1:]:
        os.link(folder / TRAIN[0], folder / name)
    return folder


@pytest.fixture
def broken(cifar: Path, tmp_path: Path) -> Path:
    """Return a copy of the files, to replace one of them."""
    for name in (*TRAIN, TEST):
        os.link(cifar / name, tmp_path / name)
    return tmp_path


@pytest.fixture(params=DATASETS.names())
def every(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DataConfig, Dataset, int]:
    """Settings, data and sequence of each dataset."""
    settings: dict[str, Any] = {}
    if request.param == "cifar10":
        settings = {"path": str(request.getfixturevalue("cifar"))}
    if request.param == "token_file":
        tokens = np.random.default_rng(0).integers(1000, size=10_000)
        settings = {"path": token_file(tmp_path / "tokens.bin", tokens), "vocabulary": 1000}
    config = DATASETS.get(request.param)(name=request.param, **settings)
    return config, config.load(), 16 if config.shape(1).kind == TOKENS else 1


def test_batches_and_validation_have_the_declared_shape(every: tuple[DataConfig, Dataset, int]) -> None:
    datasets.check_shapes(every[0])


def test_another_load_gives_the_same_numbers_by_seed_and_step(every: tuple[DataConfig, Dataset, int]) -> None:
    datasets.check_batches_repeat(every[0])
    datasets.check_validation_is_fixed(every[0])


@pytest.mark.parametrize("name", ["teacher", "polynomial", "power_law"])
def test_online_validation_is_apart_from_every_batch_and_has_no_noise(name: str) -> None:
    config = DATASETS.get(name)(name=name)
    noisy = dataclasses.replace(config, noise=2.0).load() if name != "teacher" else config.load()
    inputs, targets = noisy.validation(windows=50, sequence=1)
    for seed, step in itertools.product(range(3), range(3)):
        others = noisy.batch(seed=seed, step=step, batch=50, sequence=1)[0]
        assert not torch.isin(inputs[:, 0], others[:, 0]).any()
    if name != "teacher":
        clean = dataclasses.replace(config, noise=0.0).load()
        assert torch.equal(targets, clean.validation(windows=50, sequence=1)[1])
        with_noise, without = (one.batch(seed=0, step=0, batch=4000, sequence=1) for one in (noisy, clean))
        assert torch.equal(with_noise[0], without[0])
        assert (with_noise[1] - without[1]).std().item() == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("teacher", {"classes": 1}, r"run\.data\.classes must be at least 2 and finite, got 1"),
        ("teacher", {"task_seed": -1}, r"run\.data\.task_seed must be at least 0 and finite, got -1"),
        ("polynomial", {"degree": 0}, r"run\.data\.degree must be at least 1 and finite, got 0"),
        ("polynomial", {"degree": 21}, r"run\.data\.degree must be at most 20, got 21"),
        ("polynomial", {"noise": float("nan")}, r"run\.data\.noise must be at least 0 and finite, got nan"),
        ("power_law", {"alpha": -0.5}, r"run\.data\.alpha must be at least 0 and finite, got -0.5"),
        ("cifar10", {}, r"run\.data\.path must be given with run/data=cifar10, got ''"),
        ("token_file", {"vocabulary": 9}, r"run\.data\.path must be given with run/data=token_file, got ''"),
        ("token_file", {"path": __file__}, r"run\.data\.vocabulary must be at least 1, got 0; set it"),
        ("token_file", {"path": __file__, "vocabulary": 9, "dtype": "int8"}, r"run\.data\.dtype: unknown type 'int8'"),
        (
            "token_file",
            {"path": __file__, "vocabulary": 9, "validation_percent": 100},
            r"run\.data\.validation_percent must be between 0 and 100, got 100",
        ),
    ],
)
def test_settings_that_break_a_rule_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DATASETS.get(name)(name=name, **settings).shape(1)


@pytest.mark.parametrize("name", ["teacher", "polynomial", "power_law", "cifar10"])
def test_examples_without_positions_are_single(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"run\.sequence must be 1 with run/data={name}.*got 16"):
        DATASETS.get(name)(name=name).shape(16)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_a_token_file_is_its_tokens_with_the_last_ones_held_out(tmp_path: Path, dtype: str) -> None:
    vocabulary = 1000 if dtype == "uint16" else 200_000
    tokens = np.arange(1000) + vocabulary - 1000
    path = token_file(tmp_path / "raw.bin", tokens, dtype)
    data = tokens_of(path, dtype=dtype, vocabulary=vocabulary, validation_percent=20).load()
    inputs, targets = data.batch(seed=0, step=0, batch=2000, sequence=4)
    assert torch.equal(targets, inputs + 1)
    assert inputs.min() == tokens[0]
    assert targets.max() == tokens[799]
    inputs, targets = data.validation(windows=40, sequence=4)
    assert torch.equal(targets, inputs + 1)
    assert inputs.min() == tokens[800]
    assert targets.max() == tokens[999]


def test_a_header_is_known_by_its_magic_number(tmp_path: Path) -> None:
    tokens = np.arange(500)
    raw = tokens_of(token_file(tmp_path / "raw.bin", tokens)).load()
    headed = tokens_of(token_file(tmp_path / "headed.bin", tokens, header=(20240520, 1, 500))).load()
    first, second = (one.batch(seed=0, step=0, batch=100, sequence=4)[0] for one in (raw, headed))
    assert torch.equal(first, second)


def test_a_validation_file_is_validated_on_and_nothing_else_is_held_out(tmp_path: Path) -> None:
    path = token_file(tmp_path / "train.bin", np.arange(300))
    other = token_file(tmp_path / "other.bin", np.full(200, 7))
    data = tokens_of(path, validation_path=other).load()
    assert data.batch(seed=0, step=0, batch=2000, sequence=4)[1].max() == 299
    assert (data.validation(windows=10, sequence=4)[0] == 7).all()
    with pytest.raises(DataError, match=r"run\.data\.validation_path is .*, which is trained on; give another file"):
        tokens_of(path, validation_path=path).load()


@pytest.mark.parametrize(
    ("tokens", "header", "dtype", "message"),
    [
        (np.arange(3), None, "uint32", r"has 6 bytes, not a whole number of uint32 tokens"),
        ([], None, "uint16", r"has 0 bytes, not a whole number of uint16 tokens"),
        (np.arange(9), (20240520, 1, 10), "uint16", r"has 1042 bytes, its header says 10 tokens"),
        (np.arange(9), (20240520, 2, 9), "uint16", r"has a header of version 2"),
        (np.arange(10), (20240520, 1, 10), "uint32", r"has a header of version 1, read with run\.data\.dtype=uint32"),
    ],
)
@pytest.mark.parametrize("key", ["path", "validation_path"])
def test_torn_token_files_are_refused_with_the_layout(
    tmp_path: Path, key: str, tokens: Any, header: tuple[int, int, int] | None, dtype: str, message: str
) -> None:
    good = token_file(tmp_path / "good.bin", np.arange(100), dtype)
    bad = token_file(tmp_path / "bad.bin", tokens, header=header)
    config = tokens_of(**{"path": good, key: bad}, dtype=dtype)
    with pytest.raises(DataError, match=rf"^run\.data\.{key}: .*bad\.bin {message}.*; a file holds .*$") as caught:
        config.load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("position", [0, 2_500_000, -1])
@pytest.mark.parametrize("header", [None, (20240520, 1, 5_000_000)])
def test_a_token_outside_the_vocabulary_is_refused_wherever_it_is(
    tmp_path: Path, header: tuple[int, int, int] | None, position: int
) -> None:
    tokens = np.zeros(5_000_000)  # of three chunks
    tokens[position] = 999
    path = token_file(tmp_path / "tokens.bin", tokens, header=header)
    assert tokens_of(path, vocabulary=1000).load()
    with pytest.raises(DataError, match=r"run\.data\.path: .*tokens\.bin has the token 999, .*vocabulary \(999\)"):
        tokens_of(path, vocabulary=999).load()


def test_a_missing_token_file_is_refused_with_the_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run\.data\.path: cannot read .*nowhere \(No such file.*\); a file holds"):
        tokens_of(str(tmp_path / "nowhere")).load()


def test_too_few_tokens_are_refused_with_the_way_out(tmp_path: Path) -> None:
    data = tokens_of(token_file(tmp_path / "tokens.bin", np.arange(100))).load()
    with pytest.raises(
        DataError, match=r"10 tokens of validation text, 33 are needed; .* fewer run\.validation_windows"
    ):
        data.validation(windows=2, sequence=16)
    with pytest.raises(DataError, match=r"90 tokens of training text, 91 are needed; .* a smaller run\.sequence"):
        data.batch(seed=0, step=0, batch=1, sequence=90)


def test_the_fingerprint_of_a_token_file_knows_its_bytes_and_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = np.arange(1000)
    path = token_file(tmp_path / "one.bin", tokens)
    same = token_file(tmp_path / "two.bin", tokens)
    fingerprint = tokens_of(path).load().fingerprint
    assert tokens_of(same).load().fingerprint == fingerprint
    assert tokens_of(path, validation_percent=20).load().fingerprint != fingerprint
    assert tokens_of(path, validation_path=same).load().fingerprint != fingerprint
    tokens[500] += 1
    token_file(tmp_path / "one.bin", tokens)  # of the same size
    os.utime(path, ns=(0, 1))
    changed = tokens_of(path).load().fingerprint
    assert changed != fingerprint
    monkeypatch.setattr(hashlib, "sha256", lambda *_: pytest.fail("hashed again"))
    assert _scan(Path(path), 2000, 1, 0, np.dtype("<u2"))[1] == 999  # known from before


def test_cifar_is_normalised_by_channel_and_validated_on_its_test_file(cifar: Path) -> None:
    data = Cifar10Config(path=str(cifar)).load()
    images, labels = data.batch(seed=0, step=0, batch=5_000, sequence=1)
    assert labels.unique().tolist() == [1, 5]
    assert len(data._train[0]) == 50_000
    assert images.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0] * 3, abs=5e-3)
    assert images.std(dim=(0, 2, 3)).tolist() == pytest.approx([1] * 3, abs=5e-3)
    image, other = images[labels[:, 0] == 1][0], images[labels[:, 0] == 5][0]
    assert image[0, 0, 0] < image[0, 0, 1] < image[0, 0, 31] < image[0, 1, 0]  # row by row
    assert (other > image).all()
    held_out, answers = data.validation(windows=10_000, sequence=1)
    assert (answers == 9).all()
    torch.testing.assert_close(held_out[0] - other, other - image)
    with pytest.raises(DataError, match="there are 10000 examples to validate on"):
        data.validation(windows=10_001, sequence=1)


@pytest.mark.parametrize("name", [TRAIN[2], TEST])
def test_a_missing_or_torn_cifar_file_is_refused_with_the_layout(broken: Path, name: str) -> None:
    (broken / name).unlink()
    layout = r"data_batch_1\.bin to data_batch_5\.bin and test_batch\.bin, each 10000 records of 3073 bytes"
    with pytest.raises(DataError, match=rf"run\.data\.path: cannot read .*{name} \(No such file.*{layout}"):
        Cifar10Config(path=str(broken)).load()
    (broken / name).write_bytes(b"\1" * 3073)
    with pytest.raises(DataError, match=rf"run\.data\.path: .*{name} has 3073 bytes, not 30730000; .*{layout}"):
        Cifar10Config(path=str(broken)).load()


def test_a_cifar_label_above_nine_is_refused(broken: Path) -> None:
    (broken / TEST).unlink()
    (broken / TEST).write_bytes(b"\x0b" * RECORDS * 3073)
    with pytest.raises(DataError, match=r"test_batch\.bin has the label 11, labels are 0 to 9"):
        Cifar10Config(path=str(broken)).load()


def test_a_teacher_has_all_its_classes_and_is_drawn_by_its_own_seed() -> None:
    first, second = (TeacherConfig(task_seed=seed).load() for seed in (0, 1))
    (points, labels), (same, others) = (one.batch(seed=0, step=0, batch=4096, sequence=1) for one in (first, second))
    assert torch.equal(points, same)
    assert points.std().item() == pytest.approx(1, rel=0.02)
    assert len(labels.unique()) == 8
    assert (labels == others).float().mean() < 0.5
    assert first.fingerprint != second.fingerprint


def test_a_teacher_does_not_see_the_scale_of_a_point_but_is_not_linear() -> None:
    """A ReLU network without biases is positively homogeneous.

    A linear one would be odd, and fit by least squares.
    """
    data = TeacherConfig(inputs=2, classes=2).load()
    points, labels = (part.numpy() for part in data.batch(seed=0, step=0, batch=20_000, sequence=1))
    angles = ((np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi)) % 1 * 200).astype(int)
    shares = np.bincount(angles, weights=labels[:, 0], minlength=200) / np.bincount(angles, minlength=200)
    pure = np.isin(shares, (0, 1))
    assert pure.mean() > 0.95  # only the few arcs with a boundary are mixed
    assert 0 < shares.mean() < 1
    both = pure[:100] & pure[100:]
    assert (shares[:100] == shares[100:])[both].any()  # a linear one would answer differently at opposite points


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_a_polynomial_is_of_its_degree_and_variance_one(degree: int) -> None:
    x, y = (
        part.double()
        for part in PolynomialConfig(inputs=3, degree=degree, noise=0)
        .load()
        .batch(seed=0, step=0, batch=20_000, sequence=1)
    )
    assert y.mean().item() == pytest.approx(0, abs=0.05)
    assert y.var().item() == pytest.approx(1, rel=0.1)

    def unexplained(of_degree: int) -> float:
        powers = [p for p in itertools.product(range(of_degree + 1), repeat=3) if sum(p) <= of_degree]
        monomials = torch.stack([(x ** torch.tensor(p)).prod(dim=1) for p in powers], dim=1)
        fit = torch.linalg.lstsq(monomials, y).solution
        return float((monomials @ fit - y).square().mean())

    assert unexplained(degree) < 1e-10
    assert unexplained(degree - 1) > 1e-4


def test_power_law_features_and_target_fall_as_powers() -> None:
    data = PowerLawConfig(inputs=8, alpha=1.5, beta=0.5).load()
    x, y = data.batch(seed=0, step=0, batch=20_000, sequence=1)
    j = torch.arange(1.0, 9.0)
    torch.testing.assert_close(x.var(dim=0), j**-3, rtol=0.05, atol=0)
    torch.testing.assert_close(torch.linalg.lstsq(x, y).solution[:, 0], j**-0.5, rtol=1e-3, atol=0)


def test_sgd_on_power_law_features_has_the_loss_of_the_recursion() -> None:
    config = PowerLawConfig(inputs=8, alpha=0.4, beta=0.3, noise=0.5)
    data, rate, batch, steps, runs = config.load(), 0.15, 2, 12, 3000
    target = power_law(8, config.beta)
    spectrum = power_law(8, 2 * config.alpha)
    w = np.zeros((runs, 8))
    for step in range(steps):
        x, y = (part.numpy() for part in data.batch(seed=0, step=step, batch=runs * batch, sequence=1))
        x, y = x.reshape(runs, batch, 8), y.reshape(runs, batch)
        w -= rate * np.einsum("rbj,rb->rj", x, np.einsum("rbj,rj->rb", x, w) - y) / batch
    found = ((w - target) ** 2 @ spectrum).mean() / 2
    expected = power_law_loss(
        rate, spectrum=spectrum, start=power_law(8, 2 * config.beta), batch=batch, steps=steps, noise_variance=0.25
    )
    assert found == pytest.approx(expected, rel=0.03)
    assert expected < spectrum @ target**2 / 4  # the control: training did something


@pytest.mark.parametrize("name", ["stdlib", "digits"])
def test_a_batch_has_the_numbers_that_it_always_had(name: str, tmp_path: Path) -> None:
    """Earlier runs must find them again.

    A change belongs under Numerics in CHANGELOG.md.
    """
    for index in range(40):
        (tmp_path / f"m{index}.py").write_text(str((index + 2) ** 61))
    config = StdlibConfig(path=str(tmp_path)) if name == "stdlib" else DigitsConfig()
    _, targets = config.load().batch(seed=1, step=3, batch=8, sequence=2 if name == "stdlib" else 1)
    assert targets.flatten().tolist() == FIRST[name]


@pytest.mark.parametrize("name", ["teacher", "polynomial", "power_law"])
def test_a_network_learns_what_is_drawn_online(name: str) -> None:
    run = small(
        model=MODELS.get("mlp")(name="mlp", width=32, depth=2),
        data=DATASETS.get(name)(name=name),
        sequence=1,
        batch=64,
        tokens=64 * 200,
        lr=2.0**-7,
        diverged_above=100.0,
    )
    run.check()
    (result,) = train([run], [0], run.data.load())
    assert result.loss is not None
    assert result.loss < 0.85 * result.initial_loss
