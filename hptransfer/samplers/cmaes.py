"""CMA-ES (Optuna's CmaEsSampler), with its state kept as JSON.

With a single tuned hyperparameter, Optuna samples it at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hptransfer.samplers import SAMPLERS, ChoosingSamplerConfig

if TYPE_CHECKING:
    from cmaes import CMA
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

HISTORY = "_funhist_values"
"""Losses for a rule of termination that Optuna does not apply; partly uninitialized memory."""


@SAMPLERS.register("cmaes")
@dataclass(kw_only=True)
class CmaesConfig(ChoosingSamplerConfig):
    """Settings of sampler=cmaes."""

    name: str = "cmaes"

    def build(self, seed: int) -> BaseSampler:
        from optuna.samplers import CmaEsSampler

        class JsonCmaEsSampler(CmaEsSampler):
            """Optuna's sampler, which would store its optimizer as a pickle.

            Whoever can write to a run folder could otherwise run code in its driver.
            """

            _optimizer: Any = None

            def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
                states = [trial.system_attrs.get(self._attr_key_optimizer) for trial in reversed(completed_trials)]
                self._optimizer = next(filter(None, map(decode_optimizer, states)), None)
                return self._optimizer

            def _init_optimizer(self, *arguments: Any) -> Any:
                self._optimizer = super()._init_optimizer(*arguments)
                return self._optimizer

            def _split_optimizer_str(self, optimizer_str: str) -> dict[str, Any]:
                return {self._attr_key_optimizer: encode_optimizer(self._optimizer)}

        return JsonCmaEsSampler(seed=seed, n_startup_trials=min(5, self.trials), warn_independent_sampling=False)


def encode_optimizer(optimizer: CMA) -> dict[str, Any]:
    """Return an optimizer's state as JSON numbers and lists.

    Its random numbers are not part of it: Optuna seeds them anew for every proposal.
    """
    state = optimizer.__getstate__()
    del state[HISTORY]
    return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in state.items()}


def decode_optimizer(values: object) -> CMA | None:
    """Return the optimizer of a JSON state; None without one.

    Only numbers and arrays of the shapes of a new optimizer are accepted.
    """
    import numpy as np
    from cmaes import CMA

    try:
        if not isinstance(values, Mapping) or not _is_consistent(values):
            return None
        optimizer = CMA(mean=np.zeros(values["_n_dim"]), sigma=1.0, population_size=values["_popsize"])
        state = optimizer.__getstate__()
        for key in state.keys() - {HISTORY}:
            value, current = values[key], state[key]
            if isinstance(value, list):
                value = np.array(value, dtype=float)
                if current is not None and current.shape != value.shape:
                    return None
            elif value is not None and not isinstance(value, int | float):
                return None
            state[key] = value
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError):
        return None
    optimizer.__setstate__(state)
    return optimizer


def _is_consistent(values: Mapping[str, Any]) -> bool:
    """Test if the lists have the lengths that the state names.

    An optimizer of any size is made only after this test.
    """
    dim, size = values["_n_dim"], values["_popsize"]
    lists: Sequence[Sequence[float]] = (values["_mean"], values["_c_1d"], values["_weights"])
    return [len(each) for each in lists] == [dim, dim * (dim + 1) // 2, size]
