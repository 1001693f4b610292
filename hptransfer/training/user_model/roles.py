"""Roles of a user's parameters, inferred from shapes at two widths.

A dimension that differs between the two widths grows with width. The module that holds a parameter determines the
dimension of the fan-in. Both determine the role (arXiv:2203.03466; the mup package compares shapes likewise). Roles
that shapes cannot decide are refused, all in one message, and the user has to name them.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import UninitializedParameter

from hptransfer.core.errors import ConfigError, unknown
from hptransfer.parameterizations import MATRICES, Role

TensorShape = tuple[int, ...]
LOOKUPS = (nn.Embedding, nn.EmbeddingBag)
HEAD_SIZES = ("head_dim", "head_size", "d_head", "dim_head", "d_k")
HEAD_COUNTS = ("num_heads", "n_heads", "n_head", "heads", "nhead", "num_attention_heads")
# Parts that wrappers add to the names of parameters.
WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")


@dataclass(frozen=True)
class Use:
    """Use of a parameter: a module that holds it under an attribute.

    Attributes:
        called: True if the module is called, so that its hooks are too: attention reads its last layer's weights
            itself.
    """

    name: str
    module: nn.Module
    attribute: str
    called: bool

    @property
    def layer(self) -> bool:
        """True for a layer's weight that is only multiplied or looked up."""
        return self.attribute == "weight" and isinstance(self.module, (*LOOKUPS, nn.Linear, _ConvNd))

    @property
    def lookup(self) -> bool:
        """True for the table of an embedding."""
        return self.layer and isinstance(self.module, LOOKUPS)

    def sides(self, shape: TensorShape) -> tuple[int, int] | None:
        """Return the dimensions of fan-in and fan-out; None if unknown."""
        if len(shape) < 2 or not (self.layer or isinstance(self.module, nn.MultiheadAttention | nn.RNNBase)):
            return None
        return (0, 1) if self.lookup or isinstance(self.module, _ConvTransposeNd) else (1, 0)


@dataclass(frozen=True, kw_only=True)
class InferredRole:
    """Role of one parameter, inferred from its shapes.

    Attributes:
        fans, base_fans: fan-in and fan-out; for tensors without such sides, the size that grows and 1.
        lookup: True for an embedding.
        uses: every module that holds the parameter, with its role there. Roles differ only for tied embeddings.
    """

    name: str
    shape: TensorShape
    base_shape: TensorShape
    role: Role
    fans: tuple[int, int]
    base_fans: tuple[int, int]
    lookup: bool
    uses: tuple[tuple[Use, Role], ...]


def plain_name(name: str) -> str:
    """Return a parameter's or module's name without the parts of wrappers."""
    for part in WRAPPERS:
        name = name.replace(part, "")
    return name.removeprefix("module.")  # DistributedDataParallel's


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return every parameter once, by its plain name."""
    return {plain_name(name): parameter for name, parameter in model.named_parameters()}


def infer_roles(
    model: nn.Module, base: nn.Module, wide: nn.Module, roles: Mapping[str, str | Role]
) -> list[InferredRole]:
    """Infer the role of every parameter.

    Args:
        base, wide: the same model at two widths, the first of them the base's; their values are not used.
        roles: roles by glob of names, where shapes do not determine them.

    Raises:
        ConfigError: parameters differ in more than width, or their role cannot be inferred; all are named.
    """
    for module in (model, base, wide):
        for name, parameter in module.named_parameters():
            if isinstance(parameter, UninitializedParameter):
                raise ConfigError(
                    f"{plain_name(name)} has no shape until the model has run; give its layer sizes, not Lazy ones"
                )
    shapes = {name: tuple(p.shape) for name, p in parameters(model).items()}
    base_shapes = {name: tuple(p.shape) for name, p in parameters(base).items()}
    wide_shapes = {name: tuple(p.shape) for name, p in parameters(wide).items()}
    _check_alike(shapes, base_shapes, wide_shapes)
    grows = {name: [i for i, b in enumerate(base_shapes[name]) if b != wide_shapes[name][i]] for name in shapes}
    chosen = _chosen(roles, shapes)
    uses = _uses(model)
    inferred: dict[str, list[Role]] = {}
    reasons: dict[str, str] = {}
    for name, shape in shapes.items():
        by_use = _by_use(uses[name], shape, base_shapes[name], grows[name], chosen.get(name))
        if isinstance(by_use, str):
            reasons[name] = by_use
        else:
            inferred[name] = by_use
    readouts = [name for name, roles_by_use in inferred.items() if Role.OUTPUT in roles_by_use]
    if len(readouts) > 1:
        unsure = [name for name in readouts if name not in chosen and Role.INPUT not in inferred[name]]
        reasons |= dict.fromkeys(unsure, "only its input grows: a readout, a router, or hidden with a fixed output?")
    if reasons:
        lines = [f"{n} ({_dims(base_shapes[n])}, wider {_dims(wide_shapes[n])}): {r}" for n, r in reasons.items()]
        raise ConfigError(
            f"parameters whose role cannot be inferred from their shapes: {'; '.join(lines)}. "
            f"Name them by roles={{glob: role}}, roles being {', '.join(role.value for role in Role)}"
        )
    if not readouts:
        raise ConfigError(
            "no readout found: there is no matrix whose input alone grows with width. Weights that are tied by a call, "
            "such as F.linear(x, embedding.weight), cannot be seen: tie them as modules, head = nn.Linear(...) and "
            "head.weight = embedding.weight; or name the readout by roles={glob: 'output'}"
        )
    return [_inferred(n, shapes[n], base_shapes[n], grows[n], uses[n], inferred[n]) for n in shapes]


def _check_alike(
    shapes: Mapping[str, TensorShape], base: Mapping[str, TensorShape], wide: Mapping[str, TensorShape]
) -> None:
    """Raise ConfigError unless all three differ only in width."""
    not_common = sorted((shapes.keys() ^ base.keys()) | (base.keys() ^ wide.keys()))
    if not_common:
        raise ConfigError(
            f"make must build the given model except for its width, depth included; not in both: "
            f"{', '.join(not_common[:5])}{', ...' if len(not_common) > 5 else ''}"
        )
    wrong = []
    for name, shape in shapes.items():
        sides = (shape, base[name], wide[name])
        same_rank = len({len(side) for side in sides}) == 1
        if not same_rank or any(b == o != s for s, b, o in zip(*sides, strict=True)):
            wrong.append(f"{name} ({_dims(shape)}, by make {_dims(base[name])} and {_dims(wide[name])})")
    if wrong:
        raise ConfigError(
            f"the model differs from what make builds in dimensions that do not grow with width: {'; '.join(wrong)}; "
            "make must build the given model except for its width"
        )
    if base == wide:
        raise ConfigError("make builds the same shapes at both widths: it must use the given width")


def _chosen(roles: Mapping[str, str | Role], names: Mapping[str, TensorShape]) -> dict[str, Role]:
    """Return the user's roles by parameter; a later glob wins."""
    known = [role.value for role in Role]
    chosen: dict[str, Role] = {}
    for glob, role in roles.items():
        value = role.value if isinstance(role, Role) else role
        if value not in known:
            raise ConfigError(f"roles[{glob!r}]: {unknown('role', str(value), known)}")
        matching = fnmatch.filter(names, glob)
        if not matching:
            raise ConfigError(f"roles[{glob!r}] matches no parameter; there are {', '.join(list(names)[:5])}, ...")
        chosen |= dict.fromkeys(matching, Role(value))
    return chosen


def _uses(model: nn.Module) -> dict[str, list[Use]]:
    """Return every module that holds a parameter, by the parameter's name."""
    names = {id(parameter): name for name, parameter in parameters(model).items()}
    reads_itself = [f"{plain_name(name)}." for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)]
    uses: dict[str, list[Use]] = {}
    for name, module in model.named_modules():
        called = not plain_name(name).startswith(tuple(reads_itself)) if reads_itself else True
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                uses.setdefault(names[id(parameter)], []).append(Use(plain_name(name), module, attribute, called))
    return uses


def _by_use(
    uses: Sequence[Use], shape: TensorShape, base: TensorShape, grows: Sequence[int], choice: Role | None
) -> list[Role] | str:
    """Return a parameter's role in each module, or why it is unknown."""
    answers = [_by_shape(use, shape, base, grows) for use in uses]
    roles = {role for role in answers if isinstance(role, Role)}
    tied = roles == {Role.INPUT, Role.OUTPUT}
    if choice is not None:
        if tied:
            return "it is both an embedding and a readout; leave it out of roles"
        return _against(choice, uses, shape, grows) or [choice] * len(uses)
    if len(roles) > 1 and not tied:
        return f"it is shared by modules where it is {' and '.join(sorted(role.value for role in roles))}"
    reasons = [reason for reason in answers if isinstance(reason, str)]
    return reasons[0] if reasons else [role for role in answers if isinstance(role, Role)]


def _by_shape(use: Use, shape: TensorShape, base: TensorShape, grows: Sequence[int]) -> Role | str:
    """Return a parameter's role in a module, or why it is unknown."""
    if not grows:
        return Role.FIXED
    if use.sides(shape) is not None:
        return _oriented(use, shape, grows)
    if len(grows) > 2:
        return f"{len(grows)} of its dimensions grow, which no rule covers"
    if len(grows) == 2:
        ratios = {shape[i] / base[i] for i in grows}
        return (
            Role.HIDDEN
            if len(ratios) == 1
            else "its sides grow unequally, and its module does not show which is the input's"
        )
    if math.prod(shape) == shape[grows[0]]:
        return Role.VECTOR
    return "one dimension grows: a table of positions, a first layer or a readout?"


def _oriented(use: Use, shape: TensorShape, grows: Sequence[int]) -> Role | str:
    sides = use.sides(shape)
    assert sides is not None, "called only for modules with known sides"
    if not set(grows) <= set(sides):
        return "a kernel that grows with width, which no rule covers"
    grows_in, grows_out = (side in grows for side in sides)
    if use.lookup and grows_in:
        return "an embedding whose number of rows grows with width"
    if grows_in and grows_out:
        return Role.HIDDEN
    return Role.OUTPUT if grows_in else Role.INPUT


def _against(role: Role, uses: Sequence[Use], shape: TensorShape, grows: Sequence[int]) -> str:
    """Return why the user's choice is impossible; empty if it is not."""
    if role in (Role.HIDDEN, Role.OUTPUT) and any(use.lookup for use in uses):
        return f"an embedding, whose rows are looked up, is not {role.value}"
    if role in MATRICES and len(shape) < 2:
        return f"{role.value} is a role of matrices; it is vector or fixed"
    if role is Role.VECTOR and len(grows) > 1:
        return "vector is a role of what grows along one dimension"
    return ""


def _inferred(
    name: str, shape: TensorShape, base: TensorShape, grows: Sequence[int], uses: Sequence[Use], roles: Sequence[Role]
) -> InferredRole:
    lookups = [use for use in uses if use.lookup]
    role = Role.INPUT if len(set(roles)) > 1 else roles[0]
    sides = (lookups or list(uses))[0].sides(shape)

    def fans(of: TensorShape) -> tuple[int, int]:
        if sides is not None and role in MATRICES:
            kernel = math.prod(of) // (of[sides[0]] * of[sides[1]])
            return (1 if lookups else of[sides[0]] * kernel), of[sides[1]]
        size = of[grows[0]] if grows else 1
        grown = role in (Role.HIDDEN, Role.OUTPUT)
        return (size if grown else 1), (size if not grown or len(grows) > 1 else 1)

    return InferredRole(
        name=name,
        shape=shape,
        base_shape=base,
        role=role,
        fans=fans(shape),
        base_fans=fans(base),
        lookup=bool(lookups),
        uses=tuple(zip(uses, roles, strict=True)),
    )


def growing_heads(base: nn.Module, wide: nn.Module) -> Iterator[str]:
    """Yield one line for each attention module whose heads widen.

    Only modules with the usual attribute names are recognized.
    """
    wider = dict(wide.named_modules())
    for name, module in base.named_modules():
        for key in HEAD_SIZES:
            before, after = vars(module).get(key), vars(wider[name]).get(key)
            if isinstance(before, int) and isinstance(after, int) and before != after:
                yield f"{name}.{key} is {before} and {after}"
                break
        else:
            for key in HEAD_COUNTS:
                count = vars(module).get(key)
                if isinstance(count, int) and count == vars(wider[name]).get(key) and _grows(module, wider[name]):
                    yield f"{name}.{key} is {count} at both widths"
                    break


def _grows(module: nn.Module, wider: nn.Module) -> bool:
    pairs = zip(module.parameters(), wider.parameters(), strict=True)
    return any(a.dim() > 1 and a.shape != b.shape for a, b in pairs)


def _dims(shape: TensorShape) -> str:
    return "x".join(map(str, shape)) or "a number"
