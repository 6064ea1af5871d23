# Everything a user or a developer runs. `make help` lists it.
PYTHON ?= python3
VENV := .venv
LOWEST := .venv.lowest
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

# ARGS are overrides for the programs: make tables SUITE=demo ARGS="seed=1 n_images=200"
SUITE ?= demo
EXPERIMENT ?= paper
CLAIMS ?= agr_paper
ARGS ?=
# Another suite's images: make tables SUITE=imagenet IMAGENET_DIR=/path (make exports it by itself)
CELLS := experiment=$(EXPERIMENT) suite=$(SUITE) $(ARGS)

.DEFAULT_GOAL := help
TARGETS := help setup demo real ready plan status verify compare tables leaderboard figures claims report \
  bench attacks-page reference docs test test-all check wheel lowest clean
.PHONY: $(TARGETS)

# What each target reads of the command line. Anything else would do nothing, so it stops make.
CELL_WORDS := SUITE ARGS IMAGENET_DIR NIPS17_DIR
READS_demo := ARGS
READS_real := ARGS NIPS17_DIR
$(foreach t,ready plan status tables,$(eval READS_$(t) := EXPERIMENT $(CELL_WORDS)))
$(foreach t,compare leaderboard figures,$(eval READS_$(t) := $(CELL_WORDS)))
$(foreach t,claims report,$(eval READS_$(t) := CLAIMS $(CELL_WORDS)))
$(foreach t,verify test test-all lowest,$(eval READS_$(t) := ARGS))
READS_bench := ARGS NIPS17_DIR

COMMA := ,
GOALS := $(or $(MAKECMDGOALS),help)
STRAY := $(firstword $(filter-out $(TARGETS) $(VENV)/.done,$(GOALS)))
ifneq ($(STRAY),)
$(error no target $(STRAY): `make help` lists them; several overrides go into quotes, as in ARGS="seed=1 $(STRAY)")
endif
GIVEN := $(foreach v,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(v)))),$(v)))
UNREAD = $(firstword $(filter-out PYTHON MAKEFLAGS $(READS_$(1)),$(GIVEN)))
$(foreach g,$(GOALS),$(if $(call UNREAD,$(g)),$(error make $(g) reads no \
  $(call UNREAD,$(g))=…$(if $(READS_$(g)),$(COMMA) only $(READS_$(g))): overrides go into ARGS, as in \
  make tables ARGS="norm=linf n_images=50", and environment variables before make)))

# Environment variables that a suite doesn't read, and a word that is given twice: the last counts.
SUITES := $(SUITE) $(patsubst suite=%,%,$(filter suite=%,$(ARGS)))
IDLE := $(if $(filter demo lite,$(lastword $(SUITES))),IMAGENET_DIR) $(if $(filter demo imagenet,$(lastword $(SUITES))),NIPS17_DIR)
IDLE := $(if $(filter real bench,$(GOALS)),,$(firstword $(filter $(IDLE),$(GIVEN))))
$(if $(IDLE),$(error suite $(lastword $(SUITES)) reads no $(IDLE): add SUITE=$(if $(filter NIPS17_DIR,$(IDLE)),lite,imagenet)))
TWICE := $(shell tr '\0' '\n' 2>/dev/null </proc/$$PPID/cmdline | sed -n 's/^\([A-Z_0-9]*\)[:+?]*=.*/\1/p' | sort | uniq -d | head -1)
$(if $(TWICE),$(error $(TWICE)=… is there twice, and make takes the last: put all into one, $(TWICE)="… …"))

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.done ## create .venv and install the project with its test tools

demo: setup ## run the main job on the embedded demo suite: AGR on Inception-v3, L-infinity 10
	$(RUN) -m agr.run attack=agr norm=linf source=inc_v3 $(ARGS)

real: setup ## attack three ImageNet networks on photographs; NIPS17_DIR=/path for the NIPS 2017 set
	$(RUN) -m agr.run experiment=real suite=lite $(ARGS)
	$(RUN) scripts/make_tables.py experiment=real suite=lite $(ARGS)
	$(RUN) scripts/make_leaderboard.py experiment=real suite=lite $(ARGS)
	$(RUN) scripts/make_figures.py experiment=real suite=lite $(ARGS)

ready: setup ## check this machine for the run: data, weights, memory, disk, time
	@$(RUN) -m agr.check $(CELLS)

plan: setup ## list the cells of the tables: which are done, and how long the others will take
	@$(RUN) -m agr.plan $(CELLS)

status: setup ## show which cells of the tables are done, begun, running, failed or missing
	@$(RUN) -m agr.status $(CELLS)

verify: setup ## check all records again; ARGS="images=20" also crafts 20 images per cell again
	@$(RUN) -m agr.verify $(ARGS)

compare: setup ## compare any cells: make compare ARGS="attack=ifgsm,mifgsm,agr eps=2,4,8"
	$(RUN) -m agr.compare --run suite=$(SUITE) $(ARGS)

tables: setup ## run the missing cells of the paper's Tables 1-3 and render the tables
	$(RUN) -m agr.run $(CELLS)
	$(RUN) scripts/make_tables.py $(CELLS)

leaderboard: setup ## run every untargeted attack and rank them by mean transfer; ARGS="tuned=both" tunes them
	$(RUN) scripts/make_leaderboard.py --run suite=$(SUITE) $(ARGS)

figures: setup ## run the missing cells of experiment=report and its sweeps over eps, draw the figures
	$(RUN) scripts/make_figures.py --run suite=$(SUITE) $(ARGS)

claims: setup ## run the missing cells of experiment=report, judge a paper's claims (CLAIMS=my.yaml)
	$(RUN) scripts/make_claims.py --run claims=$(CLAIMS) suite=$(SUITE) $(ARGS)

report: setup ## put all of it (196 cells) on one HTML page, and as Markdown and LaTeX
	$(RUN) scripts/make_report.py --run claims=$(CLAIMS) suite=$(SUITE) $(ARGS)

bench: setup ## measure speed against a bare loop and other libraries; ARGS="--parts stops" for one part
	$(RUN) -m scripts.bench $(ARGS)

attacks-page: setup ## write docs/attacks.md again: attacks, parts, and their oracles
	$(RUN) -m tests.attacks_page

reference: setup ## write docs/reference again: commands, config keys, columns
	$(RUN) scripts/make_reference.py

docs: setup ## build the pages of docs/ into build/docs; a broken link is an error
	$(RUN) -m sphinx -W --keep-going --quiet -b html docs build/docs

test: setup ## run the fast tests
	$(RUN) -m pytest -n 2 --dist loadgroup -m "not slow" $(ARGS)

test-all: setup ## run all tests, whole runs included
	$(RUN) -m pytest -n 2 --dist loadgroup $(ARGS)

check: setup ## run ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

wheel: setup ## build dist/agr_bench-….whl, which holds configs and assets, and check it
	$(RUN) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	$(RUN) -m twine check --strict dist/*.whl

# Old libraries beside new ones are told of deprecations, which aren't ours to mend.
lowest: ## run the fast tests with the lowest versions of pyproject.toml, in an environment of its own
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet -c constraints-lowest.txt -e ".[dev]"
	$(LOWEST)/bin/python -m pip install --quiet --no-deps torchattacks
	$(LOWEST)/bin/python -m pytest -n 2 --dist loadgroup -m "not slow" -W ignore::DeprecationWarning $(ARGS)

clean: ## remove .venv and caches; keep outputs
	rm -rf $(VENV) $(LOWEST) .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torchattacks without its dependencies: it pins an old `requests` that hub clients refuse.
$(VENV)/.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip uninstall --quiet --yes agr 2>/dev/null # what we were called before
	$(INSTALL) -e ".[dev]"
	$(INSTALL) --no-deps torchattacks
	@# as pip does, which uses one core; some packages bring files that are no Python
	@$(RUN) -W ignore -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@
