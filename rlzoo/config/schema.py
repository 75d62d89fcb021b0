"""The schema of an agent is the signature of its constructor.

Own agents annotate ranges (:class:`rlzoo.core.arguments.Range`); for the plain annotations of SB3's
agents :data:`SB3_RANGES` gives the range by name. Three forms stand for what YAML cannot hold and
are built in :mod:`rlzoo.config.build`: ``{schedule: linear, start: 3e-4}``,
``{noise: normal, std: 0.1}``, and the name of an activation function.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from rlzoo.config.build import ACTIVATIONS, NOISES, SCHEDULES
from rlzoo.core.arguments import AT_LEAST_ONE, NON_NEGATIVE, POSITIVE, UNIT, Range, check_range
from rlzoo.errors import RefusedError, did_you_mean

EXCLUDED: dict[str, str] = {
    "policy": "it follows from the observation space",
    "env": "use --env",
    "dataset": "use --dataset, or 'dataset' in the run section",
    "demonstrations": "use --dataset, or 'dataset' in the run section",
    "seed": "use --seed",
    "device": "use --device",
    "tensorboard_log": "the run folder has it",
    "verbose": "the command line has its own",
    "replay_buffer_class": "it belongs to the code of the agent",
    "rollout_buffer_class": "it belongs to the code of the agent",
    "_init_setup_model": "it is internal",
    # Of the policies, in policy_kwargs:
    "observation_space": "it follows from the environment",
    "action_space": "it follows from the environment",
    "lr_schedule": "use learning_rate",
}
"""Constructor arguments that a configuration may not set, and who does."""

SB3_RANGES: dict[str, Range] = {
    "learning_rate": POSITIVE,
    "buffer_size": AT_LEAST_ONE,
    "learning_starts": NON_NEGATIVE,
    "batch_size": AT_LEAST_ONE,
    "tau": UNIT,
    "gamma": UNIT,
    "train_freq": AT_LEAST_ONE,
    "gradient_steps": Range(-1),
    "n_steps": AT_LEAST_ONE,
    "n_epochs": AT_LEAST_ONE,
    "gae_lambda": UNIT,
    "clip_range": POSITIVE,
    "clip_range_vf": POSITIVE,
    "ent_coef": NON_NEGATIVE,
    "vf_coef": NON_NEGATIVE,
    "max_grad_norm": POSITIVE,
    "target_kl": POSITIVE,
    "target_update_interval": AT_LEAST_ONE,
    "exploration_fraction": UNIT,
    "exploration_initial_eps": UNIT,
    "exploration_final_eps": UNIT,
    "policy_delay": AT_LEAST_ONE,
    "target_policy_noise": NON_NEGATIVE,
    "target_noise_clip": NON_NEGATIVE,
    "top_quantiles_to_drop_per_net": NON_NEGATIVE,
    "sde_sample_freq": Range(-1),
    "stats_window_size": AT_LEAST_ONE,
    "net_arch": AT_LEAST_ONE,
    "n_critics": AT_LEAST_ONE,
    "n_quantiles": AT_LEAST_ONE,
    "batch_norm_momentum": UNIT,
    "batch_norm_eps": POSITIVE,
}
"""Ranges of the arguments that SB3's agents and policies annotate without one."""

# A schedule may end at zero although it may not start there.
_FORM_RANGES = {
    "end": NON_NEGATIVE,
    "end_fraction": Range(0, 1, low_open=True),
    "std": NON_NEGATIVE,
}

_CONTAINERS: dict[Any, type[Any]] = {
    list: list, tuple: tuple, dict: dict, Sequence: list, Mapping: dict,
}  # fmt: skip


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run that are not the agent's: the ``run`` section of a configuration.

    Args:
        steps: Length of the training; environment steps, or gradient steps of an offline agent.
        eval_freq: Steps between two evaluations.
        eval_episodes: Episodes per evaluation.
        final_eval_episodes: Episodes of the evaluation of the final policy, whose result is the one
            that counts; None takes ``eval_episodes``.
        eval_epsilon: Share of uniformly random actions in evaluations, from a stream of its own.
        eval_envs: Most environments that evaluations play in side by side, in one batch.
        eval_deterministic: Take the likeliest action in evaluations; otherwise draw it.
        eval_splits: Other ways in which the policy is evaluated, by name: training levels, other
            tasks, greedy actions; see :class:`rlzoo.config.splits.EvalSplit`.
        checkpoint_freq: Steps between two checkpoints.
        n_envs: Number of environments that run side by side.
        dataset: Id or path of the data set of an offline agent; None takes the default one of the
            environment.
        env_kwargs: Keyword arguments of the environment.
        keep_checkpoints: Number of checkpoints that are kept, besides the best model.
        processes: One process per environment; pays for slow environments only.
        env_timeout: Seconds that an environment in a process of its own may take for a step; None
            waits for ever.
        video: Record an episode of the final policy; refused before training if that cannot be.
        pictures: Draw what the final policy believed in an episode, for agents that act on beliefs;
            refused for others.
        then_dream: Generations of a fresh policy that is trained in the learnt world model after
            the training, and then played in the real task; 0 for none.
        dream_model: ``"learnt"``: the agent's own; ``"predicted"``: one of the same kind that is
            trained to predict, which takes nothing from the agent but its task and widths.
        deterministic: Ask torch for deterministic algorithms, which an exact continuation needs on
            CUDA; a CPU needs nothing.
    """

    steps: Annotated[int, AT_LEAST_ONE] = 100_000
    eval_freq: Annotated[int, AT_LEAST_ONE] = 10_000
    eval_episodes: Annotated[int, AT_LEAST_ONE] = 10
    final_eval_episodes: Annotated[int, AT_LEAST_ONE] | None = None
    eval_epsilon: Annotated[float, UNIT] = 0.0
    eval_envs: Annotated[int, AT_LEAST_ONE] = 10
    eval_deterministic: bool = True
    eval_splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    checkpoint_freq: Annotated[int, AT_LEAST_ONE] = 50_000
    n_envs: Annotated[int, AT_LEAST_ONE] = 1
    dataset: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    keep_checkpoints: Annotated[int, AT_LEAST_ONE] = 3
    processes: bool = False
    env_timeout: Annotated[float, POSITIVE] | None = None
    video: bool = False
    pictures: bool = False
    then_dream: Annotated[int, NON_NEGATIVE] = 0
    dream_model: Literal["learnt", "predicted"] = "learnt"
    deterministic: bool = False


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor.

    Args:
        name: Its name.
        hint: Its annotation.
        default: Its default.
        range: The range of its numbers, if there is one.
    """

    name: str
    hint: Any
    default: Any
    range: Range | None


class _MismatchError(Exception):
    """A value does not fit an annotation; becomes a RefusedError with its place."""


def arguments_of(callable_: Callable[..., Any]) -> dict[str, Argument]:
    """Return the arguments that a configuration may set, by name, in the order of the signature."""
    function = callable_.__init__ if inspect.isclass(callable_) else callable_
    found = {}
    for name, parameter in inspect.signature(callable_).parameters.items():
        if name in EXCLUDED or parameter.kind not in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        ):
            continue
        hint = _evaluate(name, parameter.annotation, function)
        range_ = _range_in(hint) or SB3_RANGES.get(name)
        found[name] = Argument(name, hint, parameter.default, range_)
    return found


def run_arguments(settings: type[Any] = RunSettings) -> dict[str, Argument]:
    """Return the arguments of the ``run`` section, or of another dataclass of settings."""
    hints = get_type_hints(settings, include_extras=True)
    return {
        f.name: Argument(
            f.name,
            hints[f.name],
            f.default if f.default_factory is MISSING else f.default_factory(),
            _range_in(hints[f.name]),
        )
        for f in fields(settings)
    }


def policy_arguments(agent_class: type[Any]) -> dict[str, Argument]:
    """Return what ``policy_kwargs`` may hold: the arguments of the policies of an agent."""
    found: dict[str, Argument] = {}
    for policy in getattr(agent_class, "policy_aliases", {}).values():
        found = {**arguments_of(policy), **found}
    return found


def check_value(
    argument: Argument, value: Any, where: str, policy: Mapping[str, Argument] | None = None
) -> Any:
    """Return the value converted to the type of its argument.

    Conversions are those without a doubt: an int where a float is wanted, ``1e6`` or ``"1e6"``
    where an int is wanted, a list for a tuple.

    Args:
        argument: The argument.
        value: A plain value: number, text, boolean, None, list or dictionary.
        where: The place of the value, ``file:line`` or ``--set``, for messages.
        policy: What ``policy_kwargs`` may hold; empty or None leaves its keys unchecked.

    Raises:
        RefusedError: If the type is wrong or a number is out of range.
    """
    try:
        converted = _convert(value, argument.hint, argument.name)
    except _MismatchError as error:
        raise RefusedError(
            f"{where}: {argument.name}={value!r} has the wrong type{error}.",
            f"Allowed: {describe(argument)}.",
        ) from None
    _check_numbers(argument, converted, where)
    if argument.name == "policy_kwargs" and policy and isinstance(converted, dict):
        return {
            key: check_value(find(policy, key, f"{where}: policy_kwargs"), entry, where)
            for key, entry in converted.items()
        }
    return converted


def find(arguments: Mapping[str, Argument], name: str, where: str, owner: str = "") -> Argument:
    """Return the argument of that name.

    Raises:
        RefusedError: If there is none; with the nearest names, or who sets it instead.
    """
    if name in arguments:
        return arguments[name]
    if name in EXCLUDED:
        raise RefusedError(f"{where}: {name!r} cannot be set here: {EXCLUDED[name]}.")
    raise RefusedError(
        f"{where}: unknown setting {name!r}. {did_you_mean(name, arguments)}".strip(),
        f"{owner + ' has' if owner else 'Known'}: {', '.join(arguments)}.",
    )


def describe(argument: Argument) -> str:
    """Return what an argument accepts, in words: ``"a number in [0, 1]"``."""
    words = list(dict.fromkeys(_words(argument.hint, argument.name)))
    text = " or ".join(words) or "not settable from a configuration"
    return f"{text} in {argument.range}" if argument.range else text


def _evaluate(name: str, annotation: Any, function: Any) -> Any:
    """Evaluate one annotation; names that exist only for type checkers give Any."""
    if annotation is inspect.Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    try:
        hints = get_type_hints(holder, function.__globals__, include_extras=True)
    except NameError:
        return Any
    return hints[name]


def _range_in(hint: Any) -> Range | None:
    for part in getattr(hint, "__metadata__", ()):
        if isinstance(part, Range):
            return part
    return next(filter(None, map(_range_in, get_args(hint))), None) if get_origin(hint) else None


def _check_numbers(argument: Argument, value: Any, where: str) -> None:
    """Check every number in a value, however deep, against the range of its argument."""
    if isinstance(value, dict):
        for key, entry in value.items():
            is_form = "schedule" in value or "noise" in value
            range_ = _FORM_RANGES.get(key, argument.range) if is_form else argument.range
            _check_numbers(Argument(argument.name, argument.hint, None, range_), entry, where)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            _check_numbers(argument, entry, where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise RefusedError(f"{where}: {argument.name}={value} is not finite.")
    elif argument.range is not None:
        check_range(argument.name, value, argument.range, where)


def _convert(value: Any, hint: Any, name: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _convert(value, args[0], name)
    if origin in (Union, types.UnionType):
        return _convert_union(value, args, name)
    if (origin or hint) in _CONTAINERS:
        return _container(value, hint, name)
    if hint in (int, float):
        return _number(value, hint)
    if _fits(value, hint):
        return value
    return _named_form(value, hint, name)


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value fits an annotation that allows no conversion."""
    if hint is None or hint is types.NoneType:
        return value is None
    if get_origin(hint) is Literal:
        return any(type(value) is type(a) and value == a for a in get_args(hint))
    return hint is Any or (hint in (bool, str) and isinstance(value, hint))


def _convert_union(value: Any, parts: tuple[Any, ...], name: str) -> Any:
    converted, detail = [], ""
    for part in parts:
        try:
            converted.append(_convert(value, part, name))
        except _MismatchError as error:
            detail = detail or str(error)
    if not converted:
        raise _MismatchError(detail)
    return next((c for c in converted if type(c) is type(value)), converted[0])


def _number(value: Any, kind: type[int] | type[float]) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise _MismatchError
    try:
        number = float(value)
        if kind is float:
            return number
        if isinstance(value, int):
            return value
        if number.is_integer():
            return int(number)
    except (ValueError, OverflowError):
        raise _MismatchError from None
    raise _MismatchError


def _container(value: Any, hint: Any, name: str) -> Any:
    kind, args = _CONTAINERS[get_origin(hint) or hint], get_args(hint)
    if kind is dict:
        if not isinstance(value, dict):
            raise _MismatchError
        entry = args[1] if args else Any
        return {key: _convert(v, entry, name) for key, v in value.items()}
    if not isinstance(value, (list, tuple)):
        raise _MismatchError
    if kind is list or not args or args[-1] is Ellipsis:
        entry = args[0] if args else Any
        return kind(_convert(v, entry, name) for v in value)
    if len(args) != len(value):
        raise _MismatchError
    return tuple(_convert(v, part, name) for v, part in zip(value, args, strict=True))


def _named_form(value: Any, hint: Any, name: str) -> Any:
    """Check one of the forms that stand for a callable, an action noise or an activation."""
    forms = _forms(hint, name)
    if forms is None:
        raise _MismatchError
    key, table = forms
    if key is None:
        if isinstance(value, str) and value in table:
            return value
        raise _MismatchError
    if not isinstance(value, dict) or value.get(key) not in table:
        raise _MismatchError
    wanted = table[value[key]][1]
    for field_name in value:
        if field_name not in (key, *wanted):
            raise _MismatchError(f" (unknown field {field_name!r})")
    missing = [f for f, default in wanted.items() if default is None and f not in value]
    if missing:
        raise _MismatchError(f" ({missing[0]!r} is missing)")
    numbers = {f: _number(v, float) for f, v in value.items() if f != key}
    return {key: value[key], **numbers}


def _forms(hint: Any, name: str) -> tuple[str | None, Mapping[str, Any]] | None:
    """Return the key and the table of the named form that fits an annotation."""
    if get_origin(hint) is type and "activation" in name:
        return None, ACTIVATIONS
    if name.endswith("action_noise"):
        return "noise", NOISES
    if (get_origin(hint) or hint) is Callable:
        return "schedule", SCHEDULES
    return None


def _words(hint: Any, name: str) -> list[str]:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _words(args[0], name)
    if origin in (Union, types.UnionType):
        return [word for part in args for word in _words(part, name)]
    if origin is Literal:
        return [repr(a) for a in args]
    simple = {bool: "true or false", int: "an integer", float: "a number", str: "text",
              types.NoneType: "null", None: "null", Any: "anything",
              list: "a list", tuple: "a list", dict: "a mapping"}  # fmt: skip
    kind = _CONTAINERS.get(origin or hint, origin or hint)
    if kind in simple:
        return [simple[kind]]
    forms = _forms(hint, name)
    if forms is None:
        return []
    key, table = forms
    if key is None:
        return [f"one of {', '.join(table)}"]
    return [
        f"{{{key}: {kind}, {', '.join(f'{f}: …' for f in wanted)}}}"
        for kind, (_, wanted) in table.items()
    ]
