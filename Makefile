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
train: setup ## Train HyperMARL-IPPO and its baselines on Dispersion, 8 seeds each (seven minutes on two cores)
	@$(call run_or_resume,algos/hypermarl_ippo.py dispersion --preset-scale small --hypernet-init exact,$(RUNS)/hypermarl_ippo)
	@$(call run_or_resume,baselines/ippo.py dispersion --preset-scale small --sharing fups_id,$(RUNS)/ippo_fups_id)
	@$(call run_or_resume,baselines/ippo.py dispersion --preset-scale small --sharing nops,$(RUNS)/ippo_nops)
	@$(BIN)/python -m covey.experiment.compare $(RUNS)/hypermarl_ippo $(RUNS)/ippo_fups_id $(RUNS)/ippo_nops \
		--out $(RUNS)/comparison.png
	@echo "To train anew, delete $(RUNS)."

# --- Studies: hours on two cores. What they wrote is committed under results/, with these commands. ---

STUDY := runs/reproduce
STEPS ?= 2000000
LEVELS := poor medium good replay

# $(1) folder, $(2) runs: copy each run's table and settings, and compare them.
collect = mkdir -p results/$(1) && for run in $(2); do \
	cp $(STUDY)/$(1)/$$run/metrics.csv results/$(1)/$$run.csv; \
	cp $(STUDY)/$(1)/$$run/config.json results/$(1)/$$run.json; done

.PHONY: reproduce-dispersion
DISPERSION := nops fups_id hyper_linear hyper_mlp
reproduce-dispersion: setup ## Dispersion with the paper's settings, 10 seeds, four schemes (STEPS=20000000 for the paper's length)
	@for run in $(DISPERSION); do case $$run in \
		nops|fups_id) program="baselines/ippo.py"; flags="--sharing $$run";; \
		*) program="algos/hypermarl_ippo.py"; flags="--sharing $$run";; esac; \
		$(call run_or_resume,$$program dispersion --total-steps $(STEPS) --num-evaluations 40 --chunks 40 $$flags,$(STUDY)/dispersion/$$run) || exit; done
	@$(call collect,dispersion,$(DISPERSION))
	@$(BIN)/python -m covey.experiment.compare $(DISPERSION:%=$(STUDY)/dispersion/%) --labels $(DISPERSION) \
		--out results/dispersion/curves.png --csv results/dispersion/curves.csv

# A matrix of runs, with tables and figures in results/studies/<name>[-small]; SMALL= for the paper's scale. Called again
# it goes on where it was; a second process (make -j 1 in another terminal) takes cells that the first has not begun.
SMALL := --small
study = XLA_FLAGS="$$XLA_FLAGS --xla_backend_optimization_level=1" \
	$(BIN)/python -m covey.experiment.study results/studies/$(1).toml $(SMALL)

.PHONY: reproduce-hypermarl-toy reproduce-games reproduce-hypermarl-dispersion reproduce-hypermarl-navigation
.PHONY: reproduce-hypermarl-smax reproduce-hypermarl-mamujoco reproduce-hypermarl-bps reproduce-hypermarl-ablations
.PHONY: reproduce-hypermarl-heads reproduce-hypermarl-humanoid reproduce-hypermarl-embeddings reproduce-hypermarl-rates
reproduce-hypermarl-toy: setup ## HyperMARL's matching games, laptop scale (SMALL= for up to 64 agents)
	@$(call study,toy)
reproduce-games: ## The matching games with 2 to 16 agents, 10 seeds, six schemes, against what random and equal play get
	@$(MAKE) reproduce-hypermarl-toy SMALL=--small
	@$(BIN)/python results/games/figure.py
reproduce-hypermarl-dispersion: setup ## HyperMARL on Dispersion, laptop scale (SMALL= for the paper's)
	@$(call study,dispersion)
reproduce-hypermarl-navigation: setup ## HyperMARL on Navigation with equal, half shared and different goals, likewise
	@$(call study,navigation)
reproduce-hypermarl-smax: setup ## HyperMARL on SMAX, likewise
	@$(call study,smax)
reproduce-hypermarl-mamujoco: setup ## HyperMARL on MaMuJoCo, likewise
	@$(call study,mamujoco)
	@$(call study,matd3)
reproduce-hypermarl-humanoid: setup ## HyperMARL on Humanoid 17x1 under fast physics, two million steps (two hours on a core; SMALL= for ten)
	@$(call study,humanoid)
reproduce-hypermarl-bps: setup ## HyperMARL, SePS and others on blind particle spread, likewise
	@$(call study,bps)
reproduce-hypermarl-ablations: setup ## HyperMARL without its parts, on Dispersion, likewise
	@$(call study,ablations)
reproduce-hypermarl-heads: setup ## Full, low-rank and chunked heads with 256 agents (SMALL= for 512, too)
	@$(call study,heads)
reproduce-hypermarl-embeddings: setup ## Sizes of embeddings and generators with 20 agents on SMAX, laptop scale (SMALL= for the paper's)
	@$(call study,embeddings)
reproduce-hypermarl-rates: setup ## Learning rates of HyperMARL by MAPPO, on a robot (its critic's, too) and on SMAX, likewise
	@$(call study,rates)
	@$(call study,smax_rates)

.PHONY: reproduce-schelling
reproduce-schelling: setup ## Schelling diagrams of the social dilemmas, per role, with scripted agents (ten minutes)
	@$(BIN)/python results/schelling/make.py --episodes 32

.PHONY: reproduce-social
reproduce-social: setup ## Social rewards on the social dilemmas: claims, ablation, with HyperMARL (three hours on two cores)
	@for study in claims ablation crossing; do \
		for core in $$(seq 0 $$(($$(nproc) - 1))); do $(BIN)/python results/social/study.py $$study --core $$core & done; \
		wait; done
	@for study in claims ablation crossing; do $(BIN)/python results/social/study.py $$study --only-draw; done

.PHONY: reproduce-coda
reproduce-coda: setup ## CODA on polynomial games and diagnostics of its generator (forty minutes)
	@for study in games closed bases steering size; do $(BIN)/python results/coda/study.py $$study || exit; done

.PHONY: reproduce-coda-mamujoco
reproduce-coda-mamujoco: reproduce-mamujoco-data ## CODA on HalfCheetah's datasets with learned critics (two hours per dataset and core)
	@$(BIN)/python results/coda/mamujoco.py $(LEVELS)

# Robot, task of `offline_data.py`, flags. MATD3 does not learn to walk as an ant in this time; MAPPO does.
define BEHAVIOURS
halfcheetah_2x3  halfcheetah_2x3 --preset-scale small --num-seeds 5 --total-steps 360000 --buffer-size 360000 --num-evaluations 20 --chunks 40
ant_4x2          ant_4x2-mappo --preset-scale small --total-steps 400000 --num-evaluations 20 --chunks 40 --play-noise 0.1 --no-video
endef
export BEHAVIOURS

.PHONY: reproduce-mamujoco-data
reproduce-mamujoco-data: setup ## Behaviour policies and offline datasets of several qualities, HalfCheetah and Ant (an hour on a core)
	@while read -r robot flags; do \
		flags="$$flags --levels $(LEVELS) --play-steps 40000 --play-envs 8"; \
		$(call run_or_resume,baselines/offline_data.py $$flags,$(STUDY)/mamujoco-data/$$robot) </dev/null || exit; \
		mkdir -p results/mamujoco/data; for file in levels.csv metrics.csv config.json curve.png; do \
			cp $(STUDY)/mamujoco-data/$$robot/$$file results/mamujoco/data/$$robot-$$file; done; \
		for level in $(LEVELS); do \
			cp $(STUDY)/mamujoco-data/$$robot/$$level.png results/mamujoco/data/$$robot-$$level.png; done; \
	done <<<"$$BEHAVIOURS"

# One run a line: its name, its program, its task and flags.
define ROBOT_RUNS
halfcheetah-nops        baselines/matd3.py halfcheetah_2x3 $(CHEETAH) --sharing nops --learning-rate 1e-3
halfcheetah-fups_id     baselines/matd3.py halfcheetah_2x3 $(CHEETAH) --sharing fups_id --learning-rate 1e-3
halfcheetah-hyper_mlp   algos/hypermarl_matd3.py halfcheetah_2x3 $(CHEETAH) --sharing hyper_mlp
halfcheetah-kaleidoscope baselines/kaleidoscope.py halfcheetah_2x3 $(CHEETAH) --learning-rate 1e-3 --reset-interval 25000
nops                    baselines/matd3.py hopper_3x1 $(HOPPER) --sharing nops --learning-rate 3e-4
fups_id                 baselines/matd3.py hopper_3x1 $(HOPPER) --sharing fups_id --learning-rate 3e-4
hyper_mlp               algos/hypermarl_matd3.py hopper_3x1 $(HOPPER) --sharing hyper_mlp --learning-rate 2e-5
nops-1e-3               baselines/matd3.py hopper_3x1 $(HOPPER) --sharing nops --total-steps 180000 --buffer-size 180000
nops-hopping            baselines/matd3.py hopper_3x1 $(HOPPER) --sharing nops --critic-learning-rate 1e-3 --gradient-steps 256 \
                          --total-steps 250000 --buffer-size 250000 --num-evaluations 10 --chunks 40
hopper-mappo-nops       baselines/mappo.py hopper_3x1 --preset-scale small --total-steps 500000 --no-video --sharing nops
hopper-mappo-fups_id    baselines/mappo.py hopper_3x1 --preset-scale small --total-steps 500000 --no-video --sharing fups_id
hopper-mappo-hyper_mlp  algos/hypermarl_mappo.py hopper_3x1 --preset-scale small --total-steps 500000 --no-video --sharing hyper_mlp
ant-mappo-fups_id       baselines/mappo.py ant_4x2 --preset-scale small --total-steps 1000000 --initial-std 0.37 --num-seeds 2 --num-evaluations 20 --chunks 40 \
                          --no-video
endef
export ROBOT_RUNS
CHEETAH := --preset-scale small --num-seeds 5 --total-steps 100000 --buffer-size 100000 --num-evaluations 5 --chunks 20 --no-video
HOPPER := --preset-scale small --num-seeds 5 --hidden-sizes 64 64 --total-steps 150000 --buffer-size 150000 --num-evaluations 12 \
	--chunks 24 --no-video
SCHEMES := nops fups_id hyper_mlp

.PHONY: reproduce-mamujoco
reproduce-mamujoco: reproduce-mamujoco-data ## The above; HyperMARL beside its baselines on HalfCheetah and Hopper; what the fast physics costs (two hours more)
	@while read -r run program flags; do \
		$(call run_or_resume,$$program $$flags,$(STUDY)/mamujoco/$$run) </dev/null || exit; \
		$(call collect,mamujoco,$$run); done <<<"$$ROBOT_RUNS"
	@$(BIN)/python -m covey.experiment.compare --labels $(SCHEMES) kaleidoscope --out results/mamujoco/halfcheetah.png \
		$(SCHEMES:%=$(STUDY)/mamujoco/halfcheetah-%) $(STUDY)/mamujoco/halfcheetah-kaleidoscope
	@$(BIN)/python -m covey.experiment.compare --labels $(SCHEMES) --out results/mamujoco/hopper-mappo.png \
		$(SCHEMES:%=$(STUDY)/mamujoco/hopper-mappo-%)
	@cp $(STUDY)/mamujoco/nops-hopping/curve.png results/mamujoco/nops-hopping.png
	@$(BIN)/python -m covey.experiment.compare $(SCHEMES:%=$(STUDY)/mamujoco/%) --labels $(SCHEMES) \
		--out results/mamujoco/hopper_3x1.png --csv results/mamujoco/hopper_3x1.csv
	@PYTHONPATH=. $(BIN)/python benchmarks/mamujoco_transfer.py $(SCHEMES:%=$(STUDY)/mamujoco/%) \
		$(STUDY)/mamujoco/ant-mappo-fups_id $(STUDY)/mamujoco-data/halfcheetah_2x3

.PHONY: test
test: setup lint types ## Lint, types, tests
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

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
