.DEFAULT_GOAL := help
SHELL := bash
PYTHON ?= python3
BIN := .venv/bin
RUNS := runs/train

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' | column -t -s '|'
	@echo; echo "PYTHON=python3.12 picks the interpreter that .venv is made with."

.PHONY: setup
setup: ## Make .venv and install into it (the other targets do this first)
	@PYTHON="$(PYTHON)" tools/setup.sh

# A run that is there is resumed, which for a finished one shows its results again.
run_or_resume = if [ -e $(2)/config.json ]; then args="--resume $(2)"; else args="--run-dir $(2)"; fi; \
	$(BIN)/python $(1) $$args

.PHONY: train
train: setup ## Train HyperMARL-IPPO and its baselines on Dispersion, 8 seeds each (five minutes on two cores)
	@$(call run_or_resume,algos/hypermarl_ippo.py dispersion --preset-scale small,$(RUNS)/hypermarl_ippo)
	@$(call run_or_resume,baselines/ippo.py dispersion --preset-scale small --sharing fups_id,$(RUNS)/ippo_fups_id)
	@$(call run_or_resume,baselines/ippo.py dispersion --preset-scale small --sharing nops,$(RUNS)/ippo_nops)
	@$(BIN)/python -m covey.experiment.compare $(RUNS)/hypermarl_ippo $(RUNS)/ippo_fups_id $(RUNS)/ippo_nops \
		--out $(RUNS)/comparison.png
	@echo "To train anew, delete $(RUNS)."

.PHONY: test
test: setup lint types ## Lint, types, tests
	@$(BIN)/python -m pytest

.PHONY: lint
lint: setup ## Style, by ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: types
types: setup ## Types, by pyright
	@$(BIN)/pyright

.PHONY: format
format: setup ## Mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: clean
clean: ## Delete .venv and tools' caches (not runs)
	rm -rf .venv .pytest_cache .ruff_cache dist
