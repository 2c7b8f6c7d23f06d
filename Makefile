# Two commands matter: `make book` and `make test`. `make help` lists the rest.
PYTHON  ?= python3
# The book is made from the kept study; as long as the repository has none, from what is trained in the profile teach.
PROFILE ?= $(if $(wildcard results/published/runs.csv.gz),study,teach)
WHEELS_FOR ?= 3.12
VENV    := .venv
BIN     := $(VENV)/bin
HTML    := _build/html
READY   := $(VENV)/.ready
# MANIFEST and DATA may name several, in the same order.
STUDY   = --profile $(PROFILE) $(addprefix --manifest ,$(MANIFEST)) $(addprefix --data ,$(DATA)) $(addprefix --weights ,$(WEIGHTS)) \
          $(addprefix --executor ,$(EXECUTOR)) $(addprefix --jobs ,$(JOBS))

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup test slurm smoke book reproduce keep plan status serve lint verify student slides pdf gpu wheels clean
.DEFAULT_GOAL := help

help:            ## list what can be done
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

setup: $(READY)  ## make the virtual environment .venv and install everything into it

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed, and $(PYTHON) is older: name another with 'make PYTHON=python3.12 ...'." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[book,dicom,dev]'
	touch $@

test: $(READY)   ## run the tests, with coverage, two at a time (JOBS=1: one after the other; TESTS=tests/test_x.py)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest --numprocesses $(or $(JOBS),2) --dist loadfile $(TESTS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under=90

slurm: $(READY)  ## try the graph on a Slurm cluster made on this machine (root, slurm-wlm and munge)
	$(BIN)/python -m pytest -rs tests/slurm

lint: $(READY)   ## check style, imports and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

smoke: $(READY)  ## run every notebook at the smallest size, without building the book
	$(BIN)/desam-lite reproduce --profile smoke --pages _build/smoke

book: $(READY)   ## build _build/html/index.html, from kept runs where there are (PROFILE=smoke|teach|study|paper computes others)
	$(BIN)/desam-lite reproduce $(STUDY)
	@test -s $(HTML)/index.html || { echo "the book was not written: see the messages above." >&2; exit 1; }
	@echo "The book is at $(HTML)/index.html: open it in a browser, or run 'make serve'."

reproduce: PROFILE = study
reproduce: $(READY)  ## compute all runs of the study and its book from nothing, in results/anew: hours, resumable (EXECUTOR=slurm)
	$(BIN)/desam-lite reproduce --workspace results/anew $(STUDY)

keep: $(READY)   ## keep what 'make reproduce' has computed in results/published
	$(BIN)/desam-lite keep --workspace results/anew

plan: $(READY)   ## say what 'make book' would run, and how long it may take
	$(BIN)/desam-lite reproduce $(STUDY) --plan

status: $(READY) ## say what is done, running and failed
	$(BIN)/desam-lite reproduce --status

serve: $(READY)  ## show the built book at http://localhost:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(HTML) 8000

verify: $(READY) ## say whether runs repeated in results/anew agree with the kept ones (QUICK=1 repeats a few first)
	$(BIN)/desam-lite verify-results $(if $(QUICK),--quick)

student: $(READY) ## copies of the notebooks without solutions, for a class, in student/
	$(BIN)/desam-lite student --out student

slides: $(READY) ## slides of each part of the built book, in _build/slides/
	$(BIN)/python book/make_slides.py $(HTML) _build/slides

pdf: $(READY)    ## the built book as one PDF, _build/desam-lite.pdf (needs chromium)
	$(BIN)/python book/make_pdf.py $(HTML) _build/desam-lite.pdf

gpu: $(READY)    ## what there is to run on a GPU, in under nine minutes (GPU_ARGS="--out DIR"); without network: bash benchmarks/gpu.sh
	PYTHON=$(BIN)/python bash benchmarks/gpu.sh $(GPU_ARGS)

wheels:          ## download to wheels/ what a GPU machine without network may lack (WHEELS_FOR=3.12)
	$(PYTHON) -m pip download --quiet --no-deps --only-binary=:all: --python-version $(WHEELS_FOR) --implementation cp \
	  $(addprefix --platform ,manylinux_2_28_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64) --dest wheels --requirement benchmarks/wheels.txt

clean:           ## remove what was built (book, caches of tools); data/, results/ and .venv stay
	rm -rf _build book/executed .pytest_cache .mypy_cache .ruff_cache .coverage*
