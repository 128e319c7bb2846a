# make demo    a network trained with and without synthetic gradients, on data that ships with scikit-learn
# make test    the linter, the type checker and the tests that find most, on TensorFlow, JAX and, where it is installed, PyTorch
# make test-all    all tests: those of make test, and the rest
# make coverage    the tests once more, and which lines of the package they run: 95 % at least
# make docs    the documentation, built strictly into site/; make docs-serve shows it on localhost:8000
# All start from a bare clone: Python 3.11 or newer is all they need.

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal
# pip compiles nothing, Python what it imports: less than half. It must be allowed to keep it.
unexport PYTHONDONTWRITEBYTECODE
export TF_CPP_MIN_LOG_LEVEL ?= 2
# TensorFlow turns its faster convolutions on by itself only on CPUs with AVX-512.
export TF_ENABLE_ONEDNN_OPTS ?= 1
HAS_TORCH = $(shell $(BIN)/python -c "import torch" 2> /dev/null && echo yes)
WITHOUT_TORCH = The tests on PyTorch are left out: it is not installed. To run them: $(BIN)/python -m pip install torch

.PHONY: demo lint test test-all test-rest coverage docs docs-serve clean

demo: .venv/demo
	$(BIN)/python -m examples.quickstart

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy keras_sg

test: lint
	KERAS_BACKEND=tensorflow $(PYTEST) -m "not thorough"
	KERAS_BACKEND=jax $(PYTEST) -m "not thorough and not tensorflow"
	$(if $(HAS_TORCH),KERAS_BACKEND=torch $(PYTEST) -m "not thorough and not tensorflow",@echo "$(WITHOUT_TORCH)")

# In one go for each backend: test and then test-rest would train the models that many tests share twice.
test-all: lint
	KERAS_BACKEND=tensorflow $(PYTEST)
	KERAS_BACKEND=jax $(PYTEST) -m "not tensorflow"
	$(if $(HAS_TORCH),KERAS_BACKEND=torch $(PYTEST) -m "not tensorflow",@echo "$(WITHOUT_TORCH)")

test-rest: .venv/test
	KERAS_BACKEND=tensorflow $(PYTEST) -m "thorough"
	KERAS_BACKEND=jax $(PYTEST) -m "thorough and not tensorflow"
	$(if $(HAS_TORCH),KERAS_BACKEND=torch $(PYTEST) -m "thorough and not tensorflow")

# No backend runs all lines: the bar is for all of them together.
COV := --cov --cov-append --cov-report= --cov-fail-under=0
coverage: .venv/test
	rm -f .coverage*
	KERAS_BACKEND=tensorflow $(PYTEST) -q $(COV)
	KERAS_BACKEND=jax $(PYTEST) -q -m "not tensorflow" $(COV)
	$(if $(HAS_TORCH),KERAS_BACKEND=torch $(PYTEST) -q -m "not tensorflow" $(COV))
	$(BIN)/coverage report $(if $(HAS_TORCH),,--omit="keras_sg/trainers/torch*")

docs: .venv/docs
	$(BIN)/python -m mkdocs build --strict --config-file docs/mkdocs.yml

docs-serve: .venv/docs
	$(BIN)/python -m mkdocs serve --config-file docs/mkdocs.yml --dev-addr localhost:8000

.venv/demo: EXTRAS := tensorflow,examples
.venv/test: EXTRAS := tensorflow,jax,ray,examples,tune,docs,test
.venv/docs: EXTRAS := docs
.venv/demo .venv/test .venv/docs: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=...')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf .venv runs site .coverage*
