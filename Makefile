# `make help` lists what can be made. STACK chooses the toolboxes: onedl or openmmlab; PINS the
# versions: newest or oldest.
SHELL := /bin/bash
PYTHON ?= python3
STACK ?= onedl
PINS ?= newest

venv_onedl := .venv
venv_openmmlab := .venv-openmmlab
VENV := $(venv_$(STACK))$(patsubst %,-oldest,$(filter oldest,$(PINS)))
ifeq ($(VENV),)
$(error STACK=$(STACK) is unknown; choose onedl or openmmlab)
endif

RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
INSTALLING := $(VENV)/.installing

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-both lint wheel clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@echo 'PYTHON=python3.12 chooses the interpreter, STACK=openmmlab the second stack of toolboxes,'
	@echo 'PINS=oldest the oldest versions that are known to work.'

setup: $(INSTALLED)  ## Make the virtual environment

# $(INSTALLING) marks an environment that is ours and not complete. Such a one is made anew, since
# an interrupted pip can leave half a package that looks whole; one without a mark is not ours.
$(INSTALLED): setup.py $(wildcard requirements/*.txt)
	@if [ -e $(INSTALLING) ]; then rm -rf $(VENV); fi
	@if [ -d $(VENV) ] && [ ! -e $@ ]; then \
	    echo '$(VENV) was not made by `make setup`: move it away, or name another one with VENV=.'; \
	    exit 1; fi
	@mkdir -p $(VENV)
	@touch $(INSTALLING)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	# Past pip's cache: it may hold an mmcv compiled by hand, which would quietly be used instead.
	$(RUN) -m pip install --no-cache-dir --no-deps \
	    -c requirements/$(PINS).txt "$$(grep -oE '^(onedl-)?mmcv[^# ]*' requirements/$(STACK).txt)"
	$(RUN) -m pip install -c requirements/$(PINS).txt --editable '.[$(STACK),test]'
	@mv $(INSTALLING) $@

demo: $(INSTALLED)  ## Train, test and draw a small detector and segmenter; ARGS=--fresh starts anew
	$(RUN) demo/run.py $(ARGS)

test: $(INSTALLED)  ## Run the tests; ARGS='-k nms' narrows them
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 $(ARGS)

test-all: $(INSTALLED)  ## Run the tests that take too long for every day as well
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 -m 'slow or not slow' $(ARGS)

test-both:  ## Run the tests on both stacks
	$(MAKE) test STACK=onedl
	$(MAKE) test STACK=openmmlab

lint: $(INSTALLED)  ## Check style and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

wheel: $(INSTALLED)  ## Build the wheel into dist/
	$(RUN) -m pip wheel --no-deps --wheel-dir dist .

clean:  ## Remove what was built; environments, data/ and work_dirs/ stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find benchmarks configs demo hiera_mm tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
