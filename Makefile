# make demo    a network trained with and without synthetic gradients, on data that ships with scikit-learn
# make test    the linter and all tests, on TensorFlow and on JAX
# Both start from a bare clone: Python 3.11 or newer is all they need.

PYTHON ?= python3
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test clean

demo: .venv/demo
	$(BIN)/python -m examples.quickstart

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	KERAS_BACKEND=tensorflow $(BIN)/python -m pytest -n auto
	KERAS_BACKEND=jax $(BIN)/python -m pytest -n auto -m "not tensorflow"

.venv/demo: EXTRAS := tensorflow,examples
.venv/test: EXTRAS := tensorflow,jax,examples,tune,test
.venv/demo .venv/test: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=...')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf .venv runs
