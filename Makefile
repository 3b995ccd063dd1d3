# Each target stands alone: the first one run creates .venv and installs what requirements.lock pins.
# Needs Python 3.11 or newer; PYTHON=python3.12 make demo picks another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The mini models are too small for more threads, and threads that spin while they wait slow down
# everything beside them.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo check test style quality clean

demo: $(INSTALLED)  ## train the mini expert, proxy-tune the mini base, report (minutes, no GPU, offline)
	$(BIN)/accelerate launch --config_file recipes/accelerate/cpu.yaml train/sft.py recipes/mini/facts.yaml

check: quality  ## for daily work, about a minute: format, types and the quick tests
	$(BIN)/pytest -q -n 2 -m "not long and not slow and not gpu and not network"

test: $(INSTALLED)  ## every test that needs no GPU, no network and no minutes
	$(BIN)/pytest -n auto

style: $(INSTALLED)  ## rewrite the source in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: $(INSTALLED)  ## what style would change, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:  ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: PYTHON=python3.12 make ...')"
	@echo "Installing requirements.lock into $(VENV): a minute or two, 2 to 7 GB with torch"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps -e .
	@touch $@
