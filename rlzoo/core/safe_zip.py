"""SB3 model files that are written safely and loaded without unpickling anything.

The zip has SB3's own format, so stock ``Class.load`` and ``set_parameters`` open it. Beside SB3's
members it has ``rlzoo.json`` with everything that is needed to build the model again: SB3 keeps the
same facts as pickles, and unpickling a file from elsewhere runs whatever its author wished.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar, cast

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_setattr
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import get_system_info

from rlzoo.core import json_tree, portable
from rlzoo.core.checkpoint import library_versions
from rlzoo.core.device import resolve_device
from rlzoo.core.json_tree import NotPortableError
from rlzoo.core.model_file import (
    FORMAT,
    MEMBER,
    VERSION,
    ModelFile,
    ModelPath,
    description_of,
    listed,
    misfit,
    open_model,
    read,
    read_parameters,
)
from rlzoo.core.safe_files import replacing
from rlzoo.core.seeding import get_states, set_states
from rlzoo.core.spaces import same_values
from rlzoo.core.spaces_json import short
from rlzoo.errors import RefusedError

Model = TypeVar("Model", bound=BaseAlgorithm)

# Without these the model cannot be built; what else is missing keeps the constructor's default.
_NEEDED = ("observation_space", "action_space", "policy_class", "policy_kwargs")
_logger = logging.getLogger(__name__)


# --- writing --------------------------------------------------------------------------------------


def save_model(
    model: BaseAlgorithm,
    path: ModelPath,
    exclude: Iterable[str] | None = None,
    include: Iterable[str] | None = None,
) -> None:
    """Save any SB3 model; an error or a kill leaves the previous file untouched.

    Args:
        model: Model of SB3, sb3-contrib or rlzoo.
        path: File to write, ``.zip`` is added to a name without suffix; or an open binary file.
        exclude: Names of attributes to leave out besides ``model._excluded_save_params()``.
        include: Names of attributes to save although they would be left out.

    Raises:
        RefusedError: If the path is not a regular file.
        OSError: If the disk is full.
    """
    exclude, include = list(exclude or ()), list(include or ())
    if not isinstance(path, str | os.PathLike):
        buffer = io.BytesIO()
        _write_zip(model, buffer, exclude, include)
        path.write(buffer.getbuffer())
        return
    path = Path(path)
    with replacing(path if path.suffix else path.with_name(f"{path.name}.zip")) as file:
        _write_zip(model, file, exclude, include)


def _write_zip(
    model: BaseAlgorithm, file: io.BufferedIOBase, exclude: list[str], include: list[str]
) -> None:
    BaseAlgorithm.save(model, file, exclude, include)
    with zipfile.ZipFile(cast(BinaryIO, file), "a") as archive:
        archive.writestr(MEMBER, json_tree.dumps(describe(model, exclude, include)))


def describe(
    model: BaseAlgorithm, exclude: Iterable[str] = (), include: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the contents of ``rlzoo.json`` for a model.

    Returns:
        ``class``, ``policy_alias``, ``versions``; ``attributes`` as JSON; ``not_portable`` with the
        types of those that would need pickle; ``rebuilt``, those that hold tensors and are made
        again by ``_setup_model``; ``schedules``, those of which only the last value is kept.
    """
    attributes: dict[str, Any] = {}
    not_portable: dict[str, str] = {}
    schedules: list[str] = []
    rebuilt: list[str] = []
    for name, value in saved_attributes(model, exclude, include).items():
        try:
            attributes[name] = portable.encode(value, (name,))
        except NotPortableError:
            if _is_schedule(name, value):
                attributes[name] = portable.encode_schedule(
                    value, model._current_progress_remaining
                )
                schedules.append(name)
            elif _holds_tensors(value):
                rebuilt.append(name)
            else:
                not_portable[name] = type(value).__name__
    aliases = {cls: alias for alias, cls in reversed(model.policy_aliases.items())}
    return {
        "format": FORMAT,
        "version": VERSION,
        "class": portable.class_path(type(model)),
        "policy_alias": aliases.get(model.policy_class),
        "attributes": attributes,
        "not_portable": not_portable,
        "rebuilt": rebuilt,
        "schedules": schedules,
        "versions": library_versions(),
    }


def saved_attributes(
    model: BaseAlgorithm, exclude: Iterable[str] = (), include: Iterable[str] = ()
) -> dict[str, Any]:
    """Return what SB3 writes into its ``data`` member: attributes that are not tensors."""
    modules, variables = model._get_torch_save_params()
    left_out = {*exclude, *model._excluded_save_params()} - set(include)
    left_out |= {name.split(".")[0] for name in [*modules, *variables]}
    return {name: value for name, value in vars(model).items() if name not in left_out}


def _is_schedule(name: str, value: Any) -> bool:
    named = name in ("learning_rate", "clip_range", "clip_range_vf") or name.endswith("schedule")
    return named and callable(value)


def _holds_tensors(value: Any) -> bool:
    items = value if isinstance(value, list | tuple) else [value]
    return bool(items) and all(isinstance(i, torch.Tensor | torch.nn.Module) for i in items)


# --- reading --------------------------------------------------------------------------------------


def load_model(
    cls: type[Model] | None,
    path: ModelPath,
    env: GymEnv | None = None,
    device: torch.device | str = "auto",
    trust_pickle: bool = False,
    custom_objects: dict[str, Any] | None = None,
    force_reset: bool = True,
    print_system_info: bool = False,
    **kwargs: Any,
) -> Model:
    """Load a model without running code from the file.

    Unlike SB3's ``load`` this neither seeds nor advances the global generators, unless ``seed=`` is
    given; ``model.seed`` keeps the value of the file.

    Args:
        cls: Class of the model; None takes the one that the file names, if it is an algorithm of
            rlzoo, SB3 or sb3-contrib.
        path: File, with or without ``.zip``, or an open binary file.
        env: Environment to continue with; None is enough to predict.
        device: Where to put the model; only ``"auto"`` may fall back to the CPU.
        trust_pickle: Use SB3's own ``load``, which unpickles: for files of your own only.
        custom_objects: Attributes that replace those of the file.
        force_reset: Reset the environment before training.
        print_system_info: Print the versions of then and now.
        kwargs: Attributes to change in the loaded model; ``policy_kwargs`` must equal the file's.

    Returns:
        The model, with weights, optimiser states and counters.

    Raises:
        MissingModelError: If there is no such file (also a ``FileNotFoundError``).
        RefusedError: If the file is damaged, was written by another class or a newer rlzoo, for
            other spaces, or holds pickles only.
    """
    if custom_objects is not None and not isinstance(custom_objects, dict):
        raise RefusedError("custom_objects must be a dict or None.")
    target = resolve_device(device)
    with open_model(path) as (file, label):
        start = file.tell()
        contents = read(file, label, tensors=not trust_pickle)
        if print_system_info:
            now = get_system_info(print_info=False)[1]
            sys.stdout.write(f"== CURRENT ==\n{now}\n== SAVED ==\n{contents.system_info}\n")
        found = _model_class(cls, contents, trust_pickle)
        if trust_pickle:
            file.seek(start)
            load = (
                super(SafeSaveMixin, found).load if issubclass(found, SafeSaveMixin) else found.load
            )
            return cast(Model, load(
                cast(io.BufferedIOBase, file), env, target, custom_objects,
                force_reset=force_reset, **kwargs,
            ))  # fmt: skip
    return cast(Model, _rebuild(found, contents, env, target, custom_objects, force_reset, kwargs))


def _model_class(
    cls: type[Model] | None, contents: ModelFile, trust_pickle: bool
) -> type[BaseAlgorithm]:
    if contents.description is None and trust_pickle:
        if cls is None:
            raise RefusedError(f"{contents.label} does not say its class.", todo="Name the class.")
        return cls
    written = description_of(contents)["class"]
    if cls is None:
        found = portable.resolve_class(written, portable.ALGORITHMS)
        if not issubclass(found, BaseAlgorithm):
            raise RefusedError(f"{contents.label} names {written!r}, which is not an algorithm.")
        return found
    # A subclass of the class that wrote the file may load it, as with SB3.
    if written not in {portable.class_path(base) for base in cls.__mro__}:
        raise RefusedError(
            f"{contents.label} was written by {written.rpartition(':')[2]}{_for_spaces(contents)}, "
            f"asked to load as {cls.__name__}.",
            todo=f"Load it with {written}.",
        )
    return cls


def _for_spaces(contents: ModelFile) -> str:
    attributes = description_of(contents)["attributes"]
    try:
        observation, action = (
            short(portable.decode(attributes[f"{name}_space"]))
            for name in ("observation", "action")
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return ""
    return f" for {observation} -> {action}"


# --- building -------------------------------------------------------------------------------------


def _rebuild(
    cls: type[BaseAlgorithm],
    contents: ModelFile,
    env: GymEnv | None,
    device: torch.device,
    custom_objects: dict[str, Any] | None,
    force_reset: bool,
    kwargs: dict[str, Any],
) -> BaseAlgorithm:
    description = description_of(contents)
    attributes = _attributes(cls, contents, custom_objects or {})
    given = kwargs.get("policy_kwargs", attributes["policy_kwargs"])
    if given != attributes["policy_kwargs"]:
        raise RefusedError(
            f"policy_kwargs={given} differ from those of the file, {attributes['policy_kwargs']}."
        )
    if env is not None:
        env = cls._wrap_env(env, attributes.get("verbose", 0))
        _check_spaces(contents.label, description, attributes, env)
        attributes["n_envs"] = env.num_envs
        if force_reset:
            attributes["_last_obs"] = None
    states = get_states()
    try:
        model = cls(  # type: ignore[call-arg]
            policy=attributes["policy_class"], env=env, device=device, _init_setup_model=False
        )
        vars(model).update(attributes)
        vars(model).update(kwargs)
        _setup(model)
        _restore_tensors(model, contents)
        if model.use_sde:
            model.policy.reset_noise()  # type: ignore[operator]
    finally:
        set_states(states)
    if kwargs.get("seed") is not None:
        model.set_random_seed(kwargs["seed"])
    _warn(model, contents, custom_objects or {}, kwargs)
    return model


def _setup(model: BaseAlgorithm) -> None:
    seed, model.seed = model.seed, None  # _setup_model would seed every generator and the env
    try:
        model._setup_model()
    finally:
        model.seed = seed


def _attributes(
    cls: type[BaseAlgorithm], contents: ModelFile, custom_objects: dict[str, Any]
) -> dict[str, Any]:
    """Return the attributes of the model to build."""
    description = description_of(contents)
    try:
        attributes = {
            name: portable.decode(tree)
            for name, tree in description["attributes"].items()
            if name not in custom_objects and not name.startswith("__")
        }
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, RefusedError):
            raise
        raise RefusedError(f"{contents.label}: {MEMBER} is not understood ({error}).") from error
    attributes.update(custom_objects)
    if "policy_class" not in attributes and description["policy_alias"] in cls.policy_aliases:
        attributes["policy_class"] = cls.policy_aliases[description["policy_alias"]]
    missing = [name for name in _NEEDED if name not in attributes]
    if missing:
        raise RefusedError(
            f"{contents.label} keeps {', '.join(missing)} as a pickle only.",
            todo=f"Pass custom_objects={{{missing[0]!r}: ...}}, or trust_pickle=True (--trust).",
        )
    attributes["policy_kwargs"].pop("device", None)
    return attributes


def _check_spaces(
    label: str, description: dict[str, Any], attributes: dict[str, Any], env: Any
) -> None:
    for name in ("observation_space", "action_space"):
        saved, given = attributes[name], getattr(env, name)
        if not same_values(saved, given):
            a, b = short(saved), short(given)
            if a == b:
                a, b = repr(saved)[:200], repr(given)[:200]
            writer = description["class"].rpartition(":")[2]
            raise RefusedError(
                f"{label} was written by {writer} for {a}, asked to load for {b}.",
                f"The {name.replace('_', ' ')} of the environment must be that of the file.",
            )


def _restore_tensors(model: BaseAlgorithm, contents: ModelFile) -> None:
    modules, variables = model._get_torch_save_params()
    names = set(contents.params)
    if names != set(modules):
        raise RefusedError(
            f"{contents.label} has states for {sorted(names)}.",
            f"{type(model).__name__} needs {sorted(modules)}.",
        )
    try:
        model.set_parameters(contents.params, exact_match=True, device=model.device)
        for name in variables:
            value = contents.variables.get(name)
            if value is not None:  # SB3 has either a learned or a fixed entropy coefficient
                recursive_setattr(model, f"{name}.data", value.data.to(model.device))
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise misfit(contents.label, model, error) from error


def _warn(
    model: BaseAlgorithm,
    contents: ModelFile,
    custom_objects: dict[str, Any],
    kwargs: dict[str, Any],
) -> None:
    """Say in one line each what of the file was not used."""
    description = description_of(contents)
    replaced = {*custom_objects, *kwargs}
    not_portable = description["not_portable"]
    known = {*description["attributes"], *not_portable, *description["rebuilt"]}
    foreign = [name for name in contents.serialized if name not in known | replaced]
    if foreign:
        _logger.warning(
            "%s holds pickles that rlzoo did not write; they were ignored and not run: %s.",
            contents.label,
            listed(foreign),
        )
    schedules = [name for name in description["schedules"] if name not in replaced]
    if schedules:
        _logger.warning(
            "%s: %s cannot be stored without pickle and continue as constants with their last "
            "value; pass the function again to change that.",
            contents.label,
            listed(schedules),
        )
    lost = [name for name in not_portable if name not in replaced]
    lost += [n for n in description["rebuilt"] if not hasattr(model, n)]
    if lost:
        _logger.warning(
            "%s: %s would need pickle and keep their defaults; pass them again if they matter.",
            contents.label,
            listed(lost),
        )


class SafeSaveMixin(BaseAlgorithm):
    """``save`` and ``load`` of an agent by :func:`save_model` and :func:`load_model`.

    Inherit it before the SB3 base: ``class BEAR(SafeSaveMixin, OffPolicyAlgorithm)``.
    """

    def save(
        self,
        path: ModelPath,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save the model; see :func:`save_model`."""
        save_model(self, path, exclude, include)

    def set_parameters(
        self,
        load_path_or_dict: ModelPath | dict[str, Any],
        exact_match: bool = True,
        device: torch.device | str = "auto",
    ) -> None:
        """Set states from a dictionary or a model file; a bad file raises RefusedError."""
        if isinstance(load_path_or_dict, dict):
            super().set_parameters(load_path_or_dict, exact_match, device)
            return
        params = read_parameters(load_path_or_dict)
        try:
            super().set_parameters(params, exact_match, device)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise misfit(str(load_path_or_dict), self, error) from error

    @classmethod
    def load(
        cls,
        path: ModelPath,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        trust_pickle: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load a model without unpickling, unless ``trust_pickle``; see :func:`load_model`."""
        return load_model(
            cls, path, env, device, trust_pickle, custom_objects,
            force_reset, print_system_info, **kwargs,
        )  # fmt: skip
