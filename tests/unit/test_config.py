"""Configuration: layers, sources, conversions, presets, and the files that ship."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import SAC
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from rlzoo.agents.registry import AGENTS
from rlzoo.config import config_files, dump, known_presets, load_yaml, parse_value, resolve
from rlzoo.config.locate import config_root
from rlzoo.config.schema import EXCLUDED, SB3_RANGES, arguments_of
from rlzoo.core.arguments import POSITIVE, UNIT, Range
from rlzoo.errors import RefusedError


class Toy:
    """An agent with every kind of annotation that a constructor may have."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "small": {"gamma": 0.5, "bounds": (-1, 1), "policy_kwargs": {"width": 8}},
        "paper": {},
    }

    def __init__(
        self,
        policy: str = "MlpPolicy",
        env: Any = None,
        gamma: Annotated[float, UNIT] = 0.99,
        rate: Annotated[float, POSITIVE] | Callable[[float], float] = 1e-3,
        samples: Annotated[int, Range(2)] = 4,
        kernel: Literal["laplacian", "gaussian"] = "laplacian",
        alpha: float | Literal["auto"] = "auto",
        bounds: tuple[float, float] = (-5.0, 10.0),
        layers: Sequence[int] = (64, 64),
        flag: bool = False,
        name: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> None: ...


class ToySpec:
    """What configuration needs to know about an agent."""

    name = "toy"
    default_env = "Pendulum-v1"

    def load_class(self) -> type[Toy]:
        return Toy


TOY = ToySpec()
HEAD = "presets:\n  small:\n    agent:\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "extra.yaml"
    path.write_text(text)
    return path


# --- loading -------------------------------------------------------------------------------------


def test_the_loader_knows_the_line_of_every_key(tmp_path: Path) -> None:
    path = write(tmp_path, "# first\nall:\n\n  agent: {gamma: 0.9,\n    tau: 1}\n")
    values, lines = load_yaml(path)
    assert values == {"all": {"agent": {"gamma": 0.9, "tau": 1}}}
    assert lines == {
        ("all",): 2, ("all", "agent"): 4, ("all", "agent", "gamma"): 4, ("all", "agent", "tau"): 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e6", 1e6), ("1e-3", 1e-3), ("1.5E+3", 1500.0), ("-2e0", -2.0), (".5", 0.5), ("3.", 3.0),
        ("1_000_000", 1_000_000), ("010", 10), ("-7", -7), ("0", 0), (".inf", float("inf")),
        ("true", True), ("False", False), ("null", None), ("~", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("1:30", "1:30"), ("2020-01-01", "2020-01-01"),
        ("0x10", "0x10"), ("1e", "1e"), ("e5", "e5"), ("'1e6'", "1e6"), ("auto", "auto"),
        ("[128, 1e2]", [128, 100.0]), ("{pi: [64], qf: []}", {"pi": [64], "qf": []}),
        ("rlzoo/hopper/medium-v0", "rlzoo/hopper/medium-v0"),
    ],
)  # fmt: skip
def test_scalars_are_what_they_look_like(text: str, value: Any) -> None:
    parsed = parse_value(text, "--set x")
    assert parsed == value
    assert type(parsed) is type(value)


@settings(max_examples=200, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**12), 10**12))
def test_every_number_that_python_prints_is_read_back(number: float) -> None:
    parsed = parse_value(repr(number), "--set x")
    assert parsed == number
    assert type(parsed) is type(number)


# --- layers and sources --------------------------------------------------------------------------


def test_each_layer_wins_over_the_one_below_and_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "all:\n  agent:\n    samples: 6\n    kernel: gaussian\n    name: a\n"
                 "presets:\n  small:\n    agent:\n      name: b\n      flag: true\n")  # fmt: skip
    config = resolve(TOY, preset="small", config_file=file, overrides=["flag=false"])
    got = {name: (entry.value, entry.source) for name, entry in config.agent.items()}
    assert got == {
        "gamma": (0.5, "preset small (Toy.PRESETS)"),
        "rate": (1e-3, "constructor"),
        "samples": (6, f"{file}:3"),
        "kernel": ("gaussian", f"{file}:4"),
        "alpha": ("auto", "constructor"),
        "bounds": ((-1.0, 1.0), "preset small (Toy.PRESETS)"),
        "layers": ((64, 64), "constructor"),
        "flag": (False, "--set"),
        "name": ("b", f"{file}:9"),
        "policy_kwargs": ({"width": 8}, "preset small (Toy.PRESETS)"),
    }


def test_kwargs_are_merged_and_name_all_their_sources(tmp_path: Path) -> None:
    file = write(tmp_path, HEAD + "      policy_kwargs: {depth: 2}\n")
    overrides = ["policy_kwargs.net_arch=[128,128]", "env_kwargs.friction=0.5"]
    config = resolve(TOY, preset="small", config_file=file, overrides=overrides)
    entry = config.agent["policy_kwargs"]
    assert entry.value == {"width": 8, "depth": 2, "net_arch": [128, 128]}
    assert entry.source == f"preset small (Toy.PRESETS), {file}:4, --set"
    assert config.run_settings().env_kwargs == {"friction": 0.5}
    assert Toy.PRESETS["small"]["policy_kwargs"] == {"width": 8}


def test_a_preset_of_a_file_may_be_like_one_of_the_class(tmp_path: Path) -> None:
    text = "presets:\n  mine:\n    agent: {gamma: 0.7}\n    like: small\n"
    file = write(tmp_path, text)
    config = resolve(TOY, preset="mine", config_file=file)
    assert config.agent["bounds"].value == (-1.0, 1.0)
    assert config.agent["bounds"].source == f"preset small (Toy.PRESETS), {file}:4"
    assert config.agent["gamma"].value == 0.7  # like comes first, wherever it stands
    write(tmp_path, text.replace("like: small", "like: smal"))
    with pytest.raises(RefusedError, match=r":4: Toy has no preset 'smal'. Did you mean 'small'"):
        resolve(TOY, preset="mine", config_file=file)
    write(tmp_path, "all:\n  like: small\n")
    with pytest.raises(RefusedError, match="unknown key 'like'"):
        resolve(TOY, preset="small", config_file=file)


@pytest.mark.parametrize("planner", ["cem", "adam"])
@pytest.mark.parametrize(
    ("env_id", "row"),
    [("rlzoo/PETSCartPole-v0", "cartpole"), ("rlzoo/Ant30-v0", "ant"), ("Hopper-v5", "cheetah")],
)
def test_the_planners_of_dae_mpc_have_the_row_of_the_task(
    env_id: str, row: str, planner: str
) -> None:
    spec = AGENTS["dae-mpc"]
    found = resolve(spec, env_id, planner).agent_values()
    wanted = spec.load_class().PRESETS[f"{row}_{planner}"]
    assert {name: found[name] for name in wanted} == wanted


def test_only_what_differs_from_the_constructor_is_built() -> None:
    config = resolve(TOY, preset="paper", overrides=["samples=1e1"])
    assert config.build() == {"samples": 10}
    assert config.agent_values()["kernel"] == "laplacian"


def test_overrides_reach_the_run_and_the_agent() -> None:
    config = resolve(
        AGENTS["sac"], "Hopper-v4",
        overrides=["steps=2e4", "run.eval_freq=500", "agent.gamma=0.9", "dataset=a/b-v0"],
    )  # fmt: skip
    settings_ = config.run_settings()
    assert (settings_.steps, settings_.eval_freq, settings_.dataset) == (20_000, 500, "a/b-v0")
    assert config.agent_values()["gamma"] == 0.9


# --- conversions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("gamma=1", 1.0), ("samples=1e2", 100), ("samples='1e2'", 100), ("alpha=0.1", 0.1),
        ("alpha=auto", "auto"), ("bounds=[-2, 3]", (-2.0, 3.0)), ("name=null", None),
        ("layers=[32, 1e1]", [32, 10]),
        ("rate={schedule: linear, start: 1e-3}", {"schedule": "linear", "start": 1e-3}),
        ("rate={schedule: linear, start: 1, end: 0}",
         {"schedule": "linear", "start": 1.0, "end": 0.0}),
    ],
)  # fmt: skip
def test_unambiguous_conversions(override: str, value: Any) -> None:
    config = resolve(TOY, preset="paper", overrides=[override])
    got = config.agent_values()[override.partition("=")[0]]
    assert got == value
    assert type(got) is type(value)


def test_forms_become_objects_that_sb3_accepts() -> None:
    overrides = [
        "learning_rate={schedule: linear, start: 3e-4, end: 1e-4, end_fraction: 0.5}",
        "action_noise={noise: normal, std: 0.2}", "train_freq=[2, episode]",
        "policy_kwargs={activation_fn: tanh, net_arch: {pi: [8], qf: [16]}}",
        "buffer_size=100", "optimize_memory_usage=false",
    ]  # fmt: skip
    kwargs = resolve(AGENTS["sac"], "Pendulum-v1", overrides=overrides).build(action_size=1)
    assert isinstance(kwargs["learning_rate"], LinearSchedule)
    assert isinstance(kwargs["action_noise"], NormalActionNoise)
    assert kwargs["policy_kwargs"]["activation_fn"] is nn.Tanh
    model = SAC("MlpPolicy", "Pendulum-v1", device="cpu", **kwargs)
    assert model.lr_schedule(1.0) == pytest.approx(3e-4)
    assert model.lr_schedule(0.5) == pytest.approx(1e-4)
    assert model.train_freq.frequency == 2
    assert [m.out_features for m in model.critic.qf0 if isinstance(m, nn.Linear)] == [16, 1]
    np.testing.assert_allclose(kwargs["action_noise"]._sigma, [0.2])


def test_action_noise_without_a_continuous_action_space_is_refused() -> None:
    with pytest.raises(RefusedError, match="continuous action space"):
        resolve(AGENTS["td3"], "Hopper-v4").build(action_size=None)


# --- presets -------------------------------------------------------------------------------------


def test_the_preset_follows_the_device_and_says_who_chose_it(
    tmp_path: Path,
) -> None:
    file = write(tmp_path, "default_preset:\n  cpu: small\n  cuda: paper\n")
    on_cpu = resolve(TOY, config_file=file, device_type="cpu")
    on_cuda = resolve(TOY, config_file=file, device_type="cuda")
    assert (on_cpu.preset, on_cpu.preset_source) == ("small", f"{file}:2 for cpu")
    assert (on_cuda.preset, on_cuda.preset_source) == ("paper", f"{file}:3 for cuda")
    assert resolve(TOY, preset="paper", config_file=file).preset_source == "--preset"
    assert known_presets(TOY) == ["small", "paper"]


# --- files ---------------------------------------------------------------------------------------

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(
    path
    for path in CONFIGS.rglob("*.yaml")
    if path.name != "search.yaml"  # see test_tune_space.py
)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_shipped_file_resolves_for_every_preset_and_builds(path: Path) -> None:
    agent, *parts = path.relative_to(CONFIGS).with_suffix("").parts
    spec, env_id = AGENTS[agent], "/".join(parts)  # ids may have a namespace
    if env_id == "default":
        env_id = load_yaml(path)[0]["env"]
        assert env_id == spec.default_env
    else:
        assert load_yaml(path)[0].get("env", env_id) == env_id
    signature = inspect.signature(spec.load_class())
    for preset in known_presets(spec, env_id):
        config = resolve(spec, env_id, preset)
        assert config.run["steps"].source != "default"
        signature.bind_partial(**config.build(action_size=3))
    for device_type in ("cpu", "cuda"):
        assert resolve(spec, env_id, None, [], device_type).preset in known_presets(spec, env_id)


def test_every_agent_has_a_default_file() -> None:
    assert [name for name in AGENTS if not config_files(name)] == []


def test_files_are_found_by_environment_and_never_outside_the_folder() -> None:
    names = [file.name for file in config_files("dqn", "CartPole-v1")]
    assert names == ["configs/dqn/default.yaml", "configs/dqn/CartPole-v1.yaml"]
    assert [f.name for f in config_files("dqn", "some.module:CartPole-v1")] == names
    for env_id in ("../sac/Pendulum-v1", "/etc/hosts", "x/../../sac/Pendulum-v1", "", "Nope-v0"):
        assert [f.name for f in config_files("dqn", env_id)] == names[:1]
    assert config_root() is not None


def test_the_dump_has_sources_and_is_itself_a_configuration(tmp_path: Path) -> None:
    overrides = ["learning_rate={schedule: linear, start: 1e-3}", "policy_kwargs.net_arch=[8]",
                 "env_kwargs={g: 9.81, name: 'é#: '}", "steps=123"]  # fmt: skip
    config = resolve(AGENTS["td3"], "Pendulum-v1", overrides=overrides)
    text = dump(config)
    assert "    gamma: 0.98  # configs/td3/Pendulum-v1.yaml:" in text
    assert "    tau: 0.005  # constructor" in text
    assert "    steps: 123  # --set" in text
    again = resolve(AGENTS["td3"], config_file=write(tmp_path, text))
    assert (again.env_id, again.preset) == (config.env_id, config.preset)
    assert again.agent_values() == config.agent_values()
    assert again.run_settings() == config.run_settings()


# --- the table for SB3 ---------------------------------------------------------------------------


def test_the_table_of_ranges_and_exclusions_is_about_arguments_that_exist() -> None:
    """A renamed argument upstream would otherwise lose its range without a word."""
    names: set[str] = set()
    for spec in AGENTS.values():
        agent_class = spec.load_class()
        names |= set(inspect.signature(agent_class).parameters)
        for policy in agent_class.policy_aliases.values():
            names |= set(inspect.signature(policy).parameters)
    assert set(SB3_RANGES) <= names
    assert set(EXCLUDED) <= names


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_every_number_of_an_agent_has_a_range_or_is_known_to_be_free(agent: str) -> None:
    free = {"log_alpha_bounds", "target_entropy"}
    numbers = {
        name
        for name, argument in arguments_of(AGENTS[agent].load_class()).items()
        if isinstance(argument.default, (int, float)) and not isinstance(argument.default, bool)
        and argument.range is None
    }  # fmt: skip
    assert numbers <= free


def test_reading_configurations_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, rlzoo.config as c; c.parse_value('1e6', 'x'); c.config_files('sac');"
        "print(*({'torch', 'numpy', 'gymnasium', 'stable_baselines3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
