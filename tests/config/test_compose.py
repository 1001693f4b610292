"""Bad input is one line: the place, the value, the rule, the way out."""

import re
import shutil
from pathlib import Path

import pytest

from hptransfer.config.compose import compose
from hptransfer.core.errors import ConfigError, DataError, HptransferError
from hptransfer.launchers import num_cores
from hptransfer.planning.plan import make_plan
from tests.support.helpers import ROOT

BAD = [
    (["run.optimzer.lr=1"], "unknown key 'optimzer'. Did you mean 'optimizer'?"),
    (["run/optimizer=adam"], "unknown run/optimizer 'adam'. Did you mean 'adamw'? Known: adafactor"),
    (["sampler=tpee"], "unknown sampler 'tpee'. Did you mean 'tpe'?"),
    (["launcher=locl"], "Did you mean 'local'?"),
    (["run.parameterization=mupp"], "unknown parameterization 'mupp'. Did you mean 'mup'? Known: mfp, mup"),
    (["run.optimizer.lr=fast"], "override run.optimizer.lr=fast: run.optimizer.lr takes a number, got 'fast'"),
    (["run.tokens=2e7"], "run.tokens takes a whole number, such as 20_000_000, got '2e7'"),
    (["run.model.tied=maybe"], "run.model.tied takes true or false, got 'maybe'"),
    (["~run.tokens"], "run.tokens is always there; give it another value instead"),
    (["target=3"], "target has keys of its own; set one of them"),
    (["run.data=stdlib"], "run.data has keys of its own; choose it as run/data=stdlib"),
    (["run.optimizer=lion"], "run.optimizer has keys of its own; choose it as run/optimizer=lion"),
    (["run/modle=moe"], "unknown choice of a run 'modle'. Did you mean 'model'? Known: data, model, optimizer"),
    (["model=moe"], "unknown key 'model'. Known: budget, design, driver"),
    (["model=moe"], "variables (in the file); there is run/model"),
    (["lr=0.1"], "(in the file); there is space.lr and run.optimizer.lr and run.constants."),
    (["hydra.run.dir=x"], "override 'hydra.run.dir=x' would do nothing"),
    (
        ["run.alignment=2"],
        "run.alignment must be default, full, none or a number from 0.5 to 1, got 2; `hptransfer coord",
    ),
    (
        ["run.branch.alpha=0.7"],
        "run.branch.alpha must be 0, 0.5 or 1, got 0.7; leave it out for the parameterization's",
    ),
    (["run.data_seed=-1"], "run.data_seed must be at least 0, got -1"),
    (["run.diverged_above=nan"], "run.diverged_above must be above 1, got nan"),
    (["run.model.queries_per_key=3"], "must divide the 2 heads of width 32 and head_dim 16, or be 0 for one key-value"),
    (["run.unit.residual=2"], "leave it at 1, or take run.parameterization=umup"),
    (
        ["run/optimizer=kfac", "run.parameterization=umup"],
        "run.parameterization=umup has no rule for run/optimizer=kfac",
    ),
    (["run.budget=sqrt"], "scales by run.base.batch, which is not set; set it to the batch at which"),
    (["run/model=moe", "run.model.granularity=7"], "run.model.width (32) = 128, got 7; take 4 or 8"),
    (
        ["run/data=token_file", "run.data.path=/nowhere"],
        "run.data.path: cannot read /nowhere (No such file or directory)",
    ),
    (
        ["grid.width.path=run.optimizer"],
        "grid.width.path: 'optimizer' has keys of its own; end the path in one of them",
    ),
    (["space.lr.path=run.optimizer"], "space.lr.path: 'optimizer' has keys of its own; end the path in one of them: "),
    (["halving.factor=2"], "halving.share is null, so the rest of halving does nothing; set it, such as 0.25"),
    (["space.lr.path=run.batch"], "space.lr.path: run.batch is 4, which has no values in between; make it an"),
    (["space.lr.path=run.schedule.shape"], "space.lr.path: run.schedule.shape is 'linear', which has no values in"),
    (["grid.width.path=run.model.width.x"], "grid.width.path: path 'x' does not exist"),
    (["run.optimizer.lr"], "must be KEY=VALUE"),
    (["+extra=1"], "unknown key 'extra'"),
    (["grid.width.values=[32,40]"], "grid at width=40,depth=2,tokens=32768: run.model.width must be a multiple of"),
    (["target.width=40"], "target at width=40,depth=4,tokens=131072: run.model.width must be a multiple"),
    (["grid.width.values=[32,32.5]"], "takes whole numbers, got 32.5"),
    (["grid.width.values=[32,-1]"], "grid.width.values must be numbers above 0, got -1"),
    (["grid.width.values=[]"], "must be different numbers, at least one"),
    (["grid.width.path=run.model.widht"], "grid.width.path: path 'widht' does not exist"),
    (["grid.tokens.values=[100]"], "run.tokens (100) is smaller than one batch of 256 tokens"),
    (["grid.depth.values=[2]"], "target.depth is 4, but grid.depth.values has only 2"),
    (["space.lr.low=-1"], "needs 0 < low < high, both finite, got low -1"),
    (["space.lr.values=[0.1,0.2,-0.1]"], "space.lr must be above 0 and finite, got -0.1"),
    (["space.lr.values=[0.1,0.2]"], "needs at least 3 different values"),
    (["+space.wd.path=run.optimizer.weight_decay"], "an override cannot add an axis; copy the sweep file"),
    (["+target.hight=3"], "target: unknown axis 'hight'"),
    (["run.optimizer.beta1=1.5"], "run.optimizer.beta1 must be in [0, 1), got 1.5"),
    (["run.last=0.5"], "run.last is 0.5, but run.loss=held-out is not a mean over steps; leave it out, or take"),
    (["run.optimizer.lr=0.1"], "would do nothing: space.lr sweeps run.optimizer.lr; override space.lr.values instead"),
    (["run.base.width=0"], "run.base.width must be at least 1, got 0"),
    (["run.base.width=-64"], "run.base.width must be at least 1, got -64; set it to the width at which"),
    (["run.base.depth=0"], "run.base.depth must be at least 1, got 0"),
    (["run.base.batch=0"], "run.base.batch must be at least 1, got 0"),
    (["run.base.tokens=-1"], "run.base.tokens must be at least 1, got -1"),
    (["run.base.width=40"], "at run.base.width: run.model.width must be a multiple of run.model.head_dim (16), got 40"),
    (["run.optimizer.decay=l2"], "wrong at the next; set it to default, coupled, independent or timescale"),
    (["run.model.width=64"], "would do nothing: grid.width sweeps run.model.width"),
    (["budget=3"], "budget has keys of its own; set one of them, as in budget.KEY=VALUE"),
    (["budget.flops=nan"], "budget.flops must be above 0, got nan"),
    (["grid.width=[32]"], "grid.width has keys of its own; set one of them, as in grid.width.values="),
    (["grid.width.values=32"], "grid.width.values takes a list, such as grid.width.values=[1,2]"),
    (["space.lr.high=inf"], "needs 0 < low < high, both finite"),
    (["name=null"], "name must have a value, null is none"),
    (["run.batch=["], "an override cannot be read"),
    (["seeds=1,2"], "override 'seeds=1,2' has several values; write a list, as in 'seeds=[1,2]'"),
    (["+seeds=2"], "override '+seeds=2': seeds exists; give it without the +"),
    (["+run/model=mlp"], "override '+run/model=mlp': the sweep file chooses run/model; give it once, without a +"),
    (["~tracker"], "tracker must be given; choose one by tracker=NAME"),
    (["run.unit={residul: 3}"], "run.unit.residul: unknown key 'residul'. Did you mean 'residual'?"),
    (["space.lr.values=[a,b,c]"], "override space.lr.values=[a,b,c]: space.lr.values[0] takes a number, got 'a'"),
    (
        ["launcher=slurm", "launcher.by_scale=[{when: width >= 64, gpus: 2}]"],
        "an override cannot be read: launcher.by_s",
    ),
    (["launcher=slurm", "launcher.sbatch.nice=1"], "not in launcher.sbatch yet is added with a +, as in '+launcher.sb"),
    (["launcher=slurm", "launcher.sbatch={nice: 1}"], "is added with a +, as in '+launcher.sbatch.nice=VALUE'"),
    (["launcher=slurm", "launcher.partitoin=gpu"], "unknown key 'partitoin'. Did you mean 'partition'?"),
    (["launcher.sbatch.nice=1"], "launcher.sbatch.nice: unknown key 'sbatch'"),
    (["seeds=0"], "seeds must be a number above 0"),
    (["seeds=[1,1]"], "list of different whole numbers"),
    (["budget.trials=0"], "budget.trials must be above 0, got 0"),
    (["halving.share=1"], "halving.share must be above 0 and below 1, got 1.0; null trains every trial to its end"),
    (["halving.factor=1"], "halving.factor must be at least 2, of which one continues, got 1"),
    (["halving.sides=-1"], "halving.sides must be at least 0, got -1; 2 leaves the fit five points where"),
    (["halving.share=0.25", "launcher=inline"], "launcher=inline trains in the driver's own process"),
    (["launcher.threads=1000"], "launcher.threads must be 1 to"),
    (["sampler=random", "sampler.trials=2"], "sampler.trials must be at least 3"),
    (["name=../escape"], "name must be a plain folder name"),
    (["run.data.path=/nowhere"], "no *.py file under /nowhere"),
    (["scales=one_at_time"], "scales: unknown choice 'one_at_time'. Did you mean 'one_at_a_time'?"),
    (
        ["scales=one_at_a_time"],
        "grid.width.center must be one of its values [32, 64, 128] under scales=one_at_a_time, got None",
    ),
    (
        ["space.lr.transform=one_minus", "space.lr.high=2"],
        "space.lr must be at most 1, as the run gets 1 minus it, got 2",
    ),
    (["space.lr.transform=log"], "space.lr.transform: unknown transform 'log'. Known: one_minus"),
    (["run.validation_windows=10_000_000"], "of validation text"),
    (
        ["design=plus"],
        "override design=plus: design: 'plus' is called 'one_at_a_time' since version 0.2; write design: one_at_a_time",
    ),
    (
        ["scales=plus"],
        "override scales=plus: scales: 'plus' is called 'one_at_a_time' since version 0.2; write scales: one_at_a_time",
    ),
    (
        ["space.lr.complement=true"],
        "space.lr.complement is called transform since version 0.2; write transform: one_minus (sweeps/",
    ),
    (
        ["space.lr={low: 0.1, high: 0.2, count: 3, complement: true}"],
        "space.lr.complement is called transform since version 0.2; write transform: one_minus",
    ),
    (
        ["space={lr: {values: [0.1, 0.2, 0.4], complement: true}}"],
        "space.lr.complement is called transform since version 0.2; write transform: one_minus",
    ),
    (
        ["+space.lr.complement=false"],
        "space.lr.complement is called transform since version 0.2; leave it out",
    ),
]


@pytest.mark.parametrize(("overrides", "message"), BAD)
def test_bad_input_is_one_line_with_the_way_out(overrides: list[str], message: str) -> None:
    with pytest.raises(HptransferError, match=re.escape(message)) as caught:
        make_plan(compose("quickstart", overrides))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_unknown_sweep_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown sweep 'quikstart'. Did you mean 'quickstart'\?"):
        compose("quikstart")


def test_too_little_held_out_text_is_a_data_error() -> None:
    with pytest.raises(DataError):
        make_plan(compose("quickstart", ["run.validation_windows=10_000_000"]))


def test_a_sweep_file_anywhere_composes(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "sweeps" / "quickstart.yaml"
    (tmp_path / "mine.yaml").write_text(source.read_text().replace("name: quickstart", "name: mine"))
    assert compose(str(tmp_path / "mine.yaml")).name == "mine"


def test_text_that_is_all_held_out_is_not_called_missing(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n" * 100)  # which the split holds out
    with pytest.raises(DataError, match=r"all 1 \*.py files under .* are held out by the split"):
        make_plan(compose("quickstart", [f"run.data.path={tmp_path}"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["design=cross"], "design: unknown choice 'cross'"),
        (["design=one_at_a_time", "space.lr.center=0.3"], "space.lr.center must be one of its values"),
    ],
)
def test_a_design_that_makes_no_sense_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose("quickstart", overrides)


def test_a_name_holds_values_as_their_fields_do() -> None:
    """A run folder is found again by its name: alpha is a number with a point, however it is written."""
    assert compose("depthwise_transfer", ["rule=mup"]).name == "depthwise-resmlp-mup-alpha0.0"


def test_what_the_user_names_is_added_and_removed() -> None:
    added = compose("quickstart", ["launcher=slurm", "+launcher.sbatch.nice=10", "~target.depth"])
    assert added.launcher.sbatch == {"nice": 10}
    assert set(added.target) == {"width", "tokens"}
    assert compose("quickstart", ["~target"]).target == {}


def test_a_folder_named_as_a_key_takes_no_override_for_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of runs is beside the sweep file after its first sweep."""
    shutil.copy(ROOT / "sweeps" / "quickstart.yaml", tmp_path / "mine.yaml")
    for name in ("runs", "seeds"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    config = compose("mine.yaml", ["runs=elsewhere", "seeds=2"])
    assert (config.runs, config.seeds) == ("elsewhere", 2)


def test_presets_are_found() -> None:
    config = compose("quickstart", ["launcher=one_worker"])
    assert (config.launcher.name, config.launcher.workers) == ("local", 1)


def test_seeds_are_a_number_or_a_list() -> None:
    assert compose("quickstart", ["seeds=3"]).seed_list() == [0, 1, 2]
    assert compose("quickstart", ["seeds=[5,7]"]).seed_list() == [5, 7]


def test_a_range_of_values_is_the_same_values_however_it_is_written() -> None:
    written = compose("quickstart").space["lr"].grid("space.lr")
    assert written == [2.0**k for k in range(-9, -2)]


def test_local_workers_are_one_a_gpu_or_cores_by_threads() -> None:
    launcher = compose("quickstart", ["launcher.threads=1"]).launcher
    assert launcher.num_slots(gpus=3) == 3
    assert launcher.num_slots(gpus=0) == num_cores()
    assert compose("quickstart", ["launcher.workers=5"]).launcher.num_slots(gpus=3) == 5


def test_a_sweep_file_called_sweep_is_refused(tmp_path: Path) -> None:
    """Hydra would look for it in its own defaults, and again in those."""
    (tmp_path / "sweep.yaml").write_text("defaults: [sweep, _self_]\n")
    with pytest.raises(ConfigError, match="cannot be called sweep"):
        compose(str(tmp_path / "sweep.yaml"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: [a\n", "line 2 is not YAML that can be used: did not find expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", "line 2 is not YAML that can be used: found a tab character"),
        ("name: x\nname: y\n", "defaults must be a list from `sweep` to `_self_`, got None"),
        (
            "defaults: [sweep, run: script, _self_]\nname: x\nname: y\n",
            "line 3 is not YAML that can be used: found dup",
        ),
        ("", "must have keys, such as name: and grid:, got None"),
        (
            "defaults: [sweep, run: script, sampler: grid, launcher: inline, tracker: none, _self_]\nname: ${foo}\n",
            "name refers to ${foo}, which is not there",
        ),
        (
            "defaults: [sweep, run: script, sampler: grid, launcher: inline, tracker: none, _self_]\nsnapshot: maybe\n",
            "snapshot takes true or false, got 'maybe'",
        ),
        ("hello\n", "must have keys, such as name: and grid:, got 'hello'"),
        ("defaults: [sweep, run: script]\n", "defaults must be a list from `sweep` to `_self_`"),
        (
            "defaults: [sweep, run: script, _self_]\ngrid: {width: [8, 16]}\n",
            "grid.width must have keys, such as {values: [32, 64]}, got [8, 16]",
        ),
    ],
)
def test_a_file_that_is_no_sweep_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        compose(str(tmp_path / "bad.yaml"))
    assert "bad.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
