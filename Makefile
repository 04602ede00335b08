# The README's two commands. Each needs Python 3.11 or newer, make and a package index, nothing else.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=

.PHONY: demo test slow lint docs clean

demo: $(VENV)/installed
	$(VENV)/bin/segtl demo

# Tests start many processes: compiled modules are kept for them, whatever the environment says.
test: $(VENV)/developed
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

slow: $(VENV)/developed
	$(VENV)/bin/python -m pytest -m slow

lint: $(VENV)/developed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/developed
	$(VENV)/bin/mkdocs build --strict --clean --site-dir build/site

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e .
	touch $@

$(VENV)/developed: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
