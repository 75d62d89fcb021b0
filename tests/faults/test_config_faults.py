"""Faults in configurations: unknown keys (9), values out of range (10), broken YAML (11)."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlzoo.agents.registry import AGENTS
from rlzoo.config import load_yaml, resolve
from rlzoo.errors import RefusedError


def refused(path: Path | None = None, *overrides: str, agent: str = "sac", **kwargs: str) -> str:
    """Resolve, expect a refusal of at most three lines, and return its message."""
    with pytest.raises(RefusedError) as caught:
        resolve(AGENTS[agent], "Hopper-v4", overrides=overrides, config_file=path, **kwargs)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def file_with(folder: Path, text: str) -> Path:
    path = folder / "my config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# --- case 9: unknown keys ------------------------------------------------------------------------


def test_case_09_unknown_key_in_a_file_has_line_and_nearest_name(tmp_path: Path) -> None:
    path = file_with(tmp_path, "# note\nall:\n  agent:\n    tau: 0.01\n    gama: 0.9\n")
    message = refused(path)
    assert f"{path}:5: unknown setting 'gama'. Did you mean 'gamma'" in message
    assert "SAC has: learning_rate" in message


def test_case_09_unknown_key_of_the_run(tmp_path: Path) -> None:
    message = refused(file_with(tmp_path, "all:\n  run:\n    step: 10\n"))
    assert ":3: unknown setting 'step'. Did you mean 'steps'" in message


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("gama=0.9", "'gamma'"),
        ("step=10", "'steps'"),
        ("run.step=10", "'steps'"),
        ("agent.btch_size=10", "'batch_size'"),
        ("policy_kwargs.net_arhc=[8]", "'net_arch'"),
    ],
)
def test_case_09_unknown_key_in_set(override: str, nearest: str) -> None:
    message = refused(None, override)
    assert f"--set {override}" in message
    assert nearest in message.splitlines()[0]


@pytest.mark.parametrize("text", ["al: {agent: {}}", "presets: {default: {agnt: {}}}"])
def test_case_09_unknown_section(tmp_path: Path, text: str) -> None:
    message = refused(file_with(tmp_path, text))
    assert ":1: unknown key 'a" in message
    assert "Did you mean 'a" in message


def test_case_09_unknown_device_of_a_default_preset(tmp_path: Path) -> None:
    message = refused(file_with(tmp_path, "default_preset:\n  gpu: default\n"))
    assert ":2: unknown key 'gpu'" in message


@pytest.mark.parametrize("key", ["seed", "device", "env", "verbose", "policy", "tensorboard_log"])
def test_case_09_arguments_of_the_run_say_who_sets_them(key: str) -> None:
    assert f"{key!r} cannot be set here: " in refused(None, f"{key}=1")


@pytest.mark.parametrize("text", ["gamma", "=0.9", "policy_kwargs.=1", ".gamma=1", ""])
def test_case_09_override_without_key_or_equals_sign(text: str) -> None:
    assert "not of the form key=value" in refused(None, text)


def test_case_09_unknown_preset_lists_the_known_ones(tmp_path: Path) -> None:
    path = file_with(tmp_path, "presets: {cpu: {}, paper: {}}")
    message = refused(path, preset="papr")
    assert "--preset: unknown preset 'papr'. Did you mean 'paper'" in message
    assert "Presets: default, cpu, paper." in message


def test_case_09_a_default_preset_that_does_not_exist_has_its_line(tmp_path: Path) -> None:
    message = refused(file_with(tmp_path, "all: {}\ndefault_preset: {cpu: cup}\n"))
    assert ":2 for cpu: unknown preset 'cup'" in message


def test_case_09_configuration_of_another_agent(tmp_path: Path) -> None:
    message = refused(file_with(tmp_path, "agent: td3\nall: {}\n"))
    assert ":1: written for the agent 'td3', asked for 'sac'" in message


# --- case 10: values out of range or of the wrong type -------------------------------------------


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("gamma=1.5", "[0, 1]"), ("gamma=-0.1", "[0, 1]"), ("batch_size=0", "[1, inf)"),
        ("batch_size=-5", "[1, inf)"), ("buffer_size=0", "[1, inf)"), ("steps=-5", "[1, inf)"),
        ("steps=0", "[1, inf)"), ("eval_episodes=0", "[1, inf)"), ("n_envs=0", "[1, inf)"),
        ("learning_rate=0", "(0, inf)"), ("learning_rate=-1e-3", "(0, inf)"),
        ("tau=2", "[0, 1]"), ("gradient_steps=-2", "[-1, inf)"), ("learning_starts=-1", "[0, inf)"),
        ("train_freq=[0, episode]", "[1, inf)"), ("policy_kwargs.net_arch=[64, 0]", "[1, inf)"),
        ("policy_kwargs.net_arch={pi: [-1]}", "[1, inf)"),
        ("policy_kwargs.n_critics=0", "[1, inf)"),
        ("learning_rate={schedule: linear, start: -1}", "(0, inf)"),
        ("learning_rate={schedule: linear, start: 1e-3, end: -1}", "[0, inf)"),
        ("learning_rate={schedule: linear, start: 1e-3, end_fraction: 0}", "(0, 1]"),
        ("action_noise={noise: normal, std: -1}", "[0, inf)"),
    ],
)  # fmt: skip
def test_case_10_out_of_range(override: str, allowed: str) -> None:
    message = refused(None, override)
    assert f"--set {override}: " in message
    assert "out of range" in message
    assert f"Allowed: {allowed}" in message


def test_case_10_out_of_range_in_a_file_has_its_line(tmp_path: Path) -> None:
    path = file_with(tmp_path, "presets:\n  default:\n    agent:\n      gamma: 1.5\n")
    assert f"{path}:4: gamma=1.5 is out of range." in refused(path)


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_case_10_numbers_must_be_finite(value: str) -> None:
    assert "is not finite" in refused(None, f"learning_rate={value}")


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("gamma=abc", "a number"), ("gamma=[0.9]", "a number"), ("gamma=true", "a number"),
        ("gamma=null", "a number"), ("batch_size=2.5", "an integer"),
        ("batch_size=1e400", "an integer"), ("use_sde=1", "true or false"),
        ("use_sde=yes", "true or false"), ("policy_kwargs=[1]", "a mapping"),
        ("policy_kwargs.net_arch=64", "a list"), ("policy_kwargs.net_arch=[a]", "a list"),
        ("policy_kwargs.activation_fn=rleu", "relu, tanh"),
        ("policy_kwargs.activation_fn='torch.nn.ReLU'", "relu, tanh"),
        ("policy_kwargs.optimizer_class=os.system", "not settable"),
        ("learning_rate={schedule: cosine, start: 1}", "schedule: linear"),
        ("learning_rate={start: 1}", "schedule: linear"),
        ("learning_rate='lambda p: p'", "a number"), ("steps=many", "an integer"),
        ("train_freq=[1, episode, 2]", "a list"), ("env_kwargs=3", "a mapping"),
    ],
)  # fmt: skip
def test_case_10_wrong_type(override: str, allowed: str) -> None:
    message = refused(None, override)
    assert "has the wrong type" in message
    assert allowed in message.splitlines()[1]


@pytest.mark.parametrize(
    ("value", "detail"),
    [("{schedule: linear}", "'start' is missing"),
     ("{schedule: linear, start: 1, stop: 0}", "unknown field 'stop'")],
)  # fmt: skip
def test_case_10_an_incomplete_schedule_says_what_is_wrong(value: str, detail: str) -> None:
    assert detail in refused(None, f"learning_rate={value}")


# --- case 11: YAML -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("all:\n\tagent: {}\n", 2, "a tab is used as indentation"),
        ("all:\n  agent:\n  \tgamma: 1\n", 3, "a tab is used as indentation"),
        (
            "all:\n  agent:\n    gamma: 1\n    gamma: 2\n",
            4,
            "'gamma' occurs twice; first in line 3",
        ),
        ("all: {}\nenv: a\nall: {}\n", 3, "'all' occurs twice; first in line 1"),
        ("all:\n  a: !!python/object/apply:os.system ['touch X']\n", 2, "is not allowed"),
        ("all: !!python/name:os.system\n", 1, "is not allowed"),
        ("all: {agent: {gamma: !mine 3}}\n", 1, "is not allowed"),
        ("all: !!binary aGk=\n", 1, "is not allowed"),
        ("all: !!set {a, b}\n", 1, "is not allowed"),
        ("all:\n  a: !!int abc\n", 2, "does not fit its tag"),
        ("all: &x {}\npresets: *x\n", 2, "aliases"),
        ("all: &x {a: *x}\n", 1, "aliases"),
        ("- a\n- b\n", 1, "is not a mapping"),
        ("hello\n", 1, "is not a mapping"),
        ("", 1, "is empty"),
        ("# only a comment\n", 1, "is empty"),
        ("all: {}\n---\nenv: b\n", 2, "not valid YAML"),
        ("all: [1, 2\n", 2, "not valid YAML"),
        ("all:\n  env: 'unclosed\n", 3, "not valid YAML"),
        ("all:\n 1: x\n", 2, "a key is not text"),
        ("all:\n  ? [a]\n  : x\n", 2, "a key is not text"),
        ("a: b: c\n", 1, "not valid YAML"),
    ],
)
def test_case_11_broken_yaml_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = file_with(tmp_path, text)
    with pytest.raises(RefusedError) as caught:
        load_yaml(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: ")
    assert reason in message
    assert len(message.splitlines()) <= 3
    assert not (tmp_path / "X").exists()


def test_case_11_exponents_are_numbers(tmp_path: Path) -> None:
    text = "all:\n  run: {steps: 1e6}\n  agent: {learning_rate: 1e-3, buffer_size: 1e5}\n"
    config = resolve(AGENTS["sac"], "Hopper-v4", config_file=file_with(tmp_path, text))
    assert config.run_settings().steps == 1_000_000
    assert isinstance(config.run_settings().steps, int)
    assert config.build() | {"learning_starts": 0} == {
        "learning_rate": 1e-3, "buffer_size": 100_000, "learning_starts": 0,
    }  # fmt: skip


@pytest.mark.parametrize("value", ["[1", "!!python/name:os.system x", "", "  ", "{a: 1", "*x"])
def test_case_11_broken_value_in_set(value: str) -> None:
    assert f"--set gamma={value}: " in refused(None, f"gamma={value}")


def test_case_11_sections_must_be_mappings(tmp_path: Path) -> None:
    assert ":2: 'agent' must be a mapping" in refused(file_with(tmp_path, "all:\n  agent: 3\n"))


def test_case_11_unreadable_files(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "missing.yaml")
    assert "cannot be read" in refused(tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"env: caf\xe9\n")
    assert "cannot be read" in refused(path)
    path.write_bytes(b"env: a\x00b\n")
    assert "not valid YAML" in refused(path)
