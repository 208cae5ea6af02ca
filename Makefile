# Every target works from a bare clone: the environment is made first where it is missing or out of date.
CONFIG  ?= configs/pima.toml
PARTIES ?= 4
OUT     ?= runs/$(basename $(notdir $(CONFIG)))
READY   := .venv/ready

.PHONY: setup train test lint clean
.DEFAULT_GOAL := train

setup: $(READY)

$(READY): pyproject.toml scripts/setup.sh scripts/constraints.txt
	@bash scripts/setup.sh
	@touch $@

# Only the directory that this file chose itself is overwritten unasked.
train: $(READY)
	@.venv/bin/mhe train $(CONFIG) --parties $(PARTIES) --out $(OUT) $(if $(filter file,$(origin OUT)),--force)

# One worker for each core; who has nothing left to do takes over half of what another one has left. With byte code, for
# the many processes of the tests would otherwise compile all modules anew.
test: export PYTHONDONTWRITEBYTECODE =
test: $(READY)
	@.venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(READY)
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

clean:
	@rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
