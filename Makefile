# `make demo` and `make test` each set up all they need on a machine with Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := work_dirs/demo

.PHONY: demo test test-all docs dist lint clean

$(VENV)/.installed: setup.py pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## draw the shapes, train on them, test, leave pictures and a report
	$(BIN)/python tools/dataset_converters/shapes.py --out data/shapes
	$(BIN)/python tools/train.py configs/retinanet_ghm_r18_fpn_shapes.py --work-dir $(DEMO) --report
	$(BIN)/python tools/test.py configs/retinanet_ghm_r18_fpn_shapes.py $$(cat $(DEMO)/last_checkpoint) \
		--work-dir $(DEMO)/test --show-dir pictures
	@echo "Detections beside ground truth: $(DEMO)/test/*/pictures; report on the training: $(DEMO)/report.html"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal --durations=10
COVERAGE := --cov --cov-report=term:skip-covered

test: lint  ## lint, types, each promise once, coverage
	$(PYTEST) -m "not long" $(COVERAGE) --cov-fail-under=90

test-all: $(VENV)/.installed-dev  ## after `make test`, what it leaves out; coverage of both
	$(PYTEST) -m long $(COVERAGE) --cov-append --cov-fail-under=97

docs: $(VENV)/.installed  ## the documentation as a site; a warning or a dead link is an error
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs build/docs
	@echo "build/docs/index.html"

dist: $(VENV)/.installed  ## sdist and wheel, each installed into a new environment and checked
	$(BIN)/python -m pip install --quiet build
	rm -rf dist build/check
	$(BIN)/python -m build --outdir dist
	for file in dist/*; do $(PYTHON) -m venv --clear build/check && build/check/bin/pip install --quiet $$file && \
		build/check/bin/python tools/dev/check_install.py || exit 1; done

clean:
	rm -rf $(VENV) work_dirs data build dist *.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache
