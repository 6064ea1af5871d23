# Everything a user or a developer runs. `make help` lists it.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# The words after these go to the programs: make tables SUITE=demo ARGS="seed=1 n_images=200"
SUITE ?= demo
EXPERIMENT ?= paper
CLAIMS ?= agr_paper
ARGS ?=
# Another suite's images: make tables SUITE=imagenet IMAGENET_DIR=/path (make exports it by itself)
CELLS := experiment=$(EXPERIMENT) suite=$(SUITE) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup demo ready plan status verify tables leaderboard figures claims report bench attacks-page test test-all check clean

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.done ## make .venv and install the project with its test tools

demo: setup ## the main job on the embedded demo suite: AGR on Inception-v3, L-infinity 10
	$(RUN) -m agr.run attack=agr norm=linf source=inc_v3 $(ARGS)

ready: setup ## whether this machine can do the run: data, weights, memory, disk, time
	@$(RUN) -m agr.check $(CELLS)

plan: setup ## list the cells of the tables: which are done, how long the others will take
	@$(RUN) -m agr.plan $(CELLS)

status: setup ## which cells of the tables are done, running, failed or missing
	@$(RUN) -m agr.status $(CELLS)

verify: setup ## check all records again: make verify ARGS="images=20" crafts some images once more
	@$(RUN) -m agr.verify $(ARGS)

tables: setup ## run every missing cell of the paper's Tables 1-3 and render them
	$(RUN) -m agr.run $(CELLS)
	$(RUN) scripts/make_tables.py $(CELLS)

leaderboard: setup ## run every untargeted attack of conf/attack and list them by mean transfer
	$(RUN) scripts/make_leaderboard.py --run suite=$(SUITE) $(ARGS)

figures: setup ## run every missing cell of experiment=report and the sweeps over eps, draw the figures
	$(RUN) scripts/make_figures.py --run suite=$(SUITE) $(ARGS)

claims: setup ## run every missing cell of experiment=report, judge the paper's claims (CLAIMS=my.yaml)
	$(RUN) scripts/make_claims.py --run claims=$(CLAIMS) suite=$(SUITE) $(ARGS)

report: setup ## all of it (188 cells) on one HTML page, as text for a pull request, and as LaTeX
	$(RUN) scripts/make_report.py --run claims=$(CLAIMS) suite=$(SUITE) $(ARGS)

bench: setup ## speed beside a bare loop and other libraries: make bench ARGS="--parts stops"
	$(RUN) -m scripts.bench $(ARGS)

attacks-page: setup ## write docs/attacks.md anew: attacks, parts, what they are checked against
	$(RUN) scripts/make_attacks_page.py

test: setup ## the fast tests
	$(RUN) -m pytest -n 2 --dist loadgroup -m "not slow" $(ARGS)

test-all: setup ## all tests, whole runs included
	$(RUN) -m pytest -n 2 --dist loadgroup $(ARGS)

check: setup ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean: ## remove .venv and caches; outputs stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torchattacks without its dependencies: it pins an old `requests` that hub clients refuse.
$(VENV)/.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps torchattacks
	@touch $@
