# `make demo` and `make test` work on a bare machine with Python 3.11 or newer: each sets up its own .venv first.
PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: demo test bench lint
.DELETE_ON_ERROR:

demo: .venv/ready
	$(BIN)/humanquery demo --out demo_out

test: .venv/ready
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

bench: .venv/ready
	$(BIN)/python -m benchmarks.evaluation
	$(BIN)/python -m benchmarks.attention
	$(BIN)/python -m benchmarks.depthwise
	$(BIN)/python -m benchmarks.tracking
	$(BIN)/python -m benchmarks.whole_model
	$(BIN)/python -m benchmarks.predicting

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "humanquery needs Python 3.11 or newer, found: $$(python3 --version 2>&1)."; \
		echo "Install one (Debian: apt install python3.12 python3.12-venv), or say make PYTHON=/path/to/python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "$(PYTHON) makes no virtual environment (Debian: apt install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps 'trackeval>=1.3' tabulate  # its opencv-python would want libGL
	@touch $@
