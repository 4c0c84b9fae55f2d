# Both commands make what they need: make train, make test. On a GPU: make train EXTRAS=quickstart,cuda12
PYTHON ?= python3
EXTRAS ?= quickstart

.PHONY: train test test-all test-newest test-lowest coverage lint docs linkcheck clean

train: .venv/installed-$(EXTRAS)
	.venv/bin/python bin/train.py --config=configs/quickstart.py
	@echo
	@echo "Next, the real thing (ResNet-18 on CIFAR-10, meant for a GPU):"
	@echo "  .venv/bin/python bin/train.py --config=configs/resnet18.py"

test: .venv-test/installed lint
	.venv-test/bin/python -m pytest -n 2 --dist loadfile

test-all: .venv-test/installed lint
	.venv-test/bin/python -m pip install --quiet --editable '.[test,loggers]'
	.venv-test/bin/python -m pytest -n 2 --dist worksteal -m 'slow or not slow'

# What depends most on the version of JAX: kernels, networks, the training step, exports, commands. For a Python that has the
# newest JAX, as in make test-newest PYTHON=python3.13; Python 3.11 stops at jax 0.10.
test-newest: .venv-newest/installed
	.venv-newest/bin/python -m pytest -n 2 --dist loadfile tests/ops tests/models tests/export tests/test_nnx.py tests/training/test_step.py \
		tests/training/test_lowering_for_cuda.py tests/commands/test_export_command.py tests/commands/test_predict_command.py

# On the lowest versions that pyproject.toml allows; make test in a fresh folder is on the newest ones for its Python. Old
# versions of libraries use what others of them have deprecated since.
test-lowest: .venv-lowest/installed
	.venv-lowest/bin/python -m pytest -n 2 --dist loadfile -W ignore::DeprecationWarning

# Lines of the package that the fast tests run; the commands that tests start in processes of their own are not counted.
coverage: .venv-test/installed
	.venv-test/bin/python -m pytest -n 2 --dist loadfile --cov --cov-report=term

# The site, docs/_build/html/index.html. A warning is an error: a link within the site that leads nowhere is one.
docs: .venv-docs/installed
	.venv-docs/bin/python docs/update.py --check
	.venv-docs/bin/python -m sphinx --fail-on-warning --keep-going --nitpicky --builder html docs docs/_build/html

# Links to other sites; needs the network.
linkcheck: .venv-docs/installed
	.venv-docs/bin/python -m sphinx --builder linkcheck docs docs/_build/linkcheck

lint: .venv-test/installed
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/mypy

.venv/installed-$(EXTRAS): pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

.venv-test/installed: pyproject.toml
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python -m pip install --quiet --editable '.[test,dev]'
	@touch $@

.venv-docs/installed: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --editable '.[docs]'
	@touch $@

.venv-newest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --editable '.[test]'
	@touch $@

.venv-lowest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip compile --quiet --no-header --resolution lowest-direct --extra test pyproject.toml \
		--output-file .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf .venv .venv-test .venv-newest .venv-lowest .venv-docs docs/_build build *.egg-info
