# make demo    a network trained with and without synthetic gradients, on data that ships with scikit-learn;
#              make demo BACKEND=jax (or torch) does it without TensorFlow
# make test    the linter, the type checker and the tests that find most, on TensorFlow, JAX and, where it is installed, PyTorch
# make test-all    all tests: those of make test, and the rest
# make test-nightly    the tests of make test on the newest keras-nightly, the next Keras, in an environment of its own
# make coverage    the tests once more, and which lines of the package they run: 95 % at least
# make docs    the documentation, built strictly into site/; make docs-serve shows it on localhost:8000
# All start from a bare clone: Python 3.11 or newer is all they need.

PYTHON ?= python3
BACKEND ?= tensorflow
BIN := .venv/bin
PYTEST = $(BIN)/python -m pytest -n auto --dist worksteal
# pip compiles nothing, Python what it imports: less than half. It must be allowed to keep it.
unexport PYTHONDONTWRITEBYTECODE
export TF_CPP_MIN_LOG_LEVEL ?= 2
# TensorFlow turns its faster convolutions on by itself only on CPUs with AVX-512.
export TF_ENABLE_ONEDNN_OPTS ?= 1
HAS_TORCH = $(shell $(BIN)/python -c "import torch" 2> /dev/null && echo yes)
WITHOUT_TORCH = The tests on PyTorch are left out: it is not installed. To run them: $(BIN)/python -m pip install torch

# $(call TESTS,MARK): the tests of a mark, on every backend.
define TESTS
KERAS_BACKEND=tensorflow $(PYTEST) -m "$(1)"
KERAS_BACKEND=jax $(PYTEST) -m "($(1)) and not tensorflow"
$(if $(HAS_TORCH),KERAS_BACKEND=torch $(PYTEST) -m "($(1)) and not tensorflow",@echo "$(WITHOUT_TORCH)")
endef

.PHONY: demo lint test test-all test-rest test-nightly coverage docs docs-serve clean

demo: .venv/demo-$(BACKEND)
	KERAS_BACKEND=$(BACKEND) $(BIN)/python -m examples.quickstart

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy keras_sg

test: lint
	$(call TESTS,not thorough)

# In one go for each backend: test and then test-rest would train the models that many tests share twice.
test-all: lint
	$(call TESTS,thorough or not thorough)

test-rest: .venv/test
	$(call TESTS,thorough)

# keras and keras-nightly are both the folder keras/: with one of them pip takes away files of the other. So both go
# before the newest comes.
test-nightly: BIN := .venv-nightly/bin
test-nightly: .venv-nightly/test
	$(BIN)/python -m pip uninstall --quiet --yes keras keras-nightly
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --pre --no-deps keras-nightly
	@KERAS_BACKEND=jax $(BIN)/python -c "import keras; print('Keras', keras.__version__)"
	$(call TESTS,not thorough)

# No backend runs all lines: the bar is for all of them together.
COV := --cov --cov-append --cov-report= --cov-fail-under=0
coverage: .venv/test
	rm -f .coverage*
	KERAS_BACKEND=tensorflow $(PYTEST) -q $(COV)
	KERAS_BACKEND=jax $(PYTEST) -q -m "not tensorflow" $(COV)
	$(if $(HAS_TORCH),KERAS_BACKEND=torch $(PYTEST) -q -m "not tensorflow" $(COV))
	$(BIN)/coverage report $(if $(HAS_TORCH),,--omit="keras_sg/_trainers/torch/*")

docs: .venv/docs
	$(BIN)/python -m mkdocs build --strict --config-file docs/mkdocs.yml

docs-serve: .venv/docs
	$(BIN)/python -m mkdocs serve --config-file docs/mkdocs.yml --dev-addr localhost:8000

.venv/demo-$(BACKEND): EXTRAS := $(BACKEND),examples
.venv/test .venv-nightly/test: EXTRAS := tensorflow,jax,ray,examples,tune,docs,test
.venv/docs: EXTRAS := docs
.venv/demo-$(BACKEND) .venv/test .venv/docs .venv-nightly/test: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=...')"
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --editable ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf .venv .venv-nightly runs site .coverage*
