# VENV chooses the environment: make test VENV=/somewhere/else
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.rlzoo-installed
EXTRAS_TESTS := tests/unit/test_benchmark_ray.py tests/unit/test_tune.py tests/unit/test_atari.py \
	tests/unit/test_atari_suite.py tests/unit/test_atari_pool.py tests/unit/test_envpool_vec.py \
	tests/unit/test_procgen.py tests/unit/test_qt.py tests/unit/test_multiroom.py \
	tests/unit/test_multiroom_levels.py tests/unit/test_coinrun_suite.py tests/unit/test_eval_splits.py \
	tests/unit/test_goal_envs_fetch.py tests/unit/test_goal_experts_fetch.py \
	tests/unit/test_obs_dropout_strategies.py tests/unit/test_obs_dropout_pictures.py \
	tests/unit/test_car_racing.py tests/unit/test_obs_dropout_carracing.py tests/cli/test_encoder.py \
	tests/cli/test_record.py tests/faults/test_video_faults.py
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install demo test test-learning test-extras test-browser test-gpu check format bench clean

help:  ## Show this help.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## Create the environment in VENV and install rlzoo with its development tools.

# torch first: with it in place no other package can pull another build of it in.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install  ## Collect Hopper data, train BEAR on it, evaluate: under ten minutes on two cores.
	$(BIN)/rlzoo demo

test: install  ## Run the tests that CI runs.
	$(PYTEST) -m "not learning and not gpu and not browser" -n 2 --dist worksteal --durations 25
	$(BIN)/python -O -m pytest tests/faults --ignore tests/faults/test_benchmark_faults.py -n 2 --dist worksteal -q

test-learning: install  ## Run the learning checks that take minutes to an hour.
	$(PYTEST) -m learning -s

test-extras: install  ## Run the tests of Ray, Optuna, videos, Atari, Procgen, MiniGrid, Fetch, CarRacing.
	python3 -c 'import ctypes; ctypes.CDLL("libGL.so.1"); ctypes.CDLL("libglib-2.0.so.0")' 2>/dev/null \
		|| apt-get install -y --no-install-recommends libgl1 libglib2.0-0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--editable '.[dev,ray,tune,video,atari,coinrun,minigrid,goals,cma,carracing]'
	$(PYTEST) $(EXTRAS_TESTS) -n 2 --dist worksteal

test-browser: install  ## Read the leaderboard in headless Chromium; keeps screenshots.
	command -v chromium >/dev/null || apt-get install -y --no-install-recommends chromium
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,browser]'
	$(PYTEST) -m browser

test-gpu: install  ## Run the tests that need CUDA (skipped, with the reason, where there is none).
	$(PYTEST) -m gpu

check: install  ## Lint, formatting, types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## Format the code.
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: install  ## Time every agent's inner loop against its peers, environments, collector, checkpoints.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,atari,coinrun,minigrid,goals]'
	$(BIN)/python benchmarks/speed/bear.py --d3rlpy-venv .venvs/d3rlpy
	$(BIN)/python benchmarks/speed/der.py
	$(BIN)/python benchmarks/speed/der_lockstep.py
	$(BIN)/python benchmarks/speed/dyna_dqn.py
	$(BIN)/python benchmarks/speed/ibac_sni.py
	$(BIN)/python benchmarks/speed/goal_envs.py
	$(BIN)/python benchmarks/speed/collect.py
	$(BIN)/python benchmarks/speed/envs.py
	$(BIN)/python benchmarks/speed/multiroom.py
	$(BIN)/python benchmarks/speed/checkpoint.py
	$(BIN)/python benchmarks/speed/checkpoint_share.py

clean:  ## Remove caches and build outputs (not runs/ and not the environments).
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
