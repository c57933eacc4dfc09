# make book · make test · make lab · make notebooks · make bench · make clean        (make help says more)
# Another Python: make book PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PAGE := file://$(CURDIR)/_build/html/index.html
RUN := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 $(BIN)/python
NBVAL := --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 300
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet
# The exact versions behind the stored outputs; another file of them, or none: make install CONSTRAINTS=
CONSTRAINTS ?= constraints.txt
# What Sphinx loads of ours
EXTENSIONS := scripts/api_reference.py scripts/gallery.py scripts/page_models.py scripts/finish_pages.py
CHAPTER_FILES = $(if $(CHAPTERS),$(wildcard $(addprefix book/,$(addsuffix _*.ipynb,$(CHAPTERS)))),$$($(RUN) scripts/book_files.py))

.PHONY: help install check book test quick unit tables chapters check-html pdf lab notebooks workshop bench clean distclean
.DEFAULT_GOAL := help

help:
	@echo "make book          build the book into _build/html from the stored outputs, and say which page to open"
	@echo "make test          unit tests and doctests, an arm of each table again, every chapter against its stored outputs"
	@echo "                   (its parts: make unit, make tables, make chapters; only some chapters: CHAPTERS='01 03')"
	@echo "make quick         the tests of one package, without the slow ones: make quick PART=steering"
	@echo "make check         ruff and mypy: style, unused names, types"
	@echo "make lab           JupyterLab with everything installed, in the folder of the chapters, which it trusts: their scripts run"
	@echo "make notebooks     run the chapters and store their outputs (only some: CHAPTERS='01 03')"
	@echo "make workshop      student and teacher notebooks, slides and a handout, into _build/workshop"
	@echo "make bench         speed beside named peers; with a text, time to loss too: CORPUS=FILE (its options: ARGS=...)"
	@echo "make check-html    the checks of the built pages, with Chromium where it is installed"
	@echo "make pdf           print the chapters with Chromium into _build/pdf (only some: CHAPTERS='01 03')"
	@echo "make clean         remove what was built (make distclean: the virtual environment too)"
	@echo "Another Python, 3.11 to 3.13: make book PYTHON=python3.12"

install: $(STAMP)

$(STAMP): requirements.txt requirements-data.txt pyproject.toml $(CONSTRAINTS)
	@command -v $(PYTHON) >/dev/null || { echo "There is no '$(PYTHON)': install Python 3.11, 3.12 or 3.13, or name one with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "$$($(PYTHON) --version) will not do: the book needs Python 3.11, 3.12 or 3.13; name one with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments: install the package python3-venv (Debian, Ubuntu) first."; exit 1; }
	@test -x $(BIN)/python || { echo "Making the virtual environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing requirements.txt into $(VENV): a few minutes the first time"
	@$(PIP) -r requirements.txt $(addprefix --constraint ,$(CONSTRAINTS))
	@$(PIP) --no-deps -r requirements-data.txt
	@touch $(STAMP)

book: _build/.built
	@echo "Open $(PAGE)"

# A page that failed is not read again by the next build, so a failed build forgets what it had read.
_build/.built: $(STAMP) _config.yml _toc.yml $(wildcard book/*.ipynb book/*.md book/*.bib book/img/* book/_static/*) $(EXTENSIONS)
	@echo "Building the book from its stored outputs"
	@$(BIN)/jupyter-book build . --quiet -W --keep-going >/dev/null || { rm -rf _build/.doctrees; echo "The book did not build; the warnings above say why."; exit 1; }
	@touch $@

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

test: unit tables chapters

unit: $(STAMP)
	$(RUN) -m pytest -q -n 2 --dist loadfile --durations=10

quick: $(STAMP)
	@test -d "tensorlm/$(PART)" || { echo "Name a package: make quick PART=steering"; exit 1; }
	$(RUN) -m pytest -q -n 2 --dist loadfile -m "not slow and not gpu" $(wildcard tests/$(PART)) tensorlm/$(PART)

tables: $(STAMP)
	$(RUN) -m pytest -q tests/tables

chapters: $(STAMP)
	$(RUN) -m pytest -q $(NBVAL) $(CHAPTER_FILES)

check-html: $(STAMP)
	@test -e _build/html/index.html || { echo "There is no built book: run 'make book' first."; exit 1; }
	$(RUN) -m pytest -q -rs tests/html

pdf: _build/.built
	$(RUN) scripts/print_chapters.py $(CHAPTERS)

lab: $(STAMP)
	cd book && export PATH="$(CURDIR)/$(BIN):$$PATH" && jupyter trust *.ipynb >/dev/null && jupyter lab 01_bilinear_layer.ipynb

notebooks: $(STAMP)
	$(RUN) scripts/notebooks.py $(CHAPTERS)

workshop: $(STAMP)
	@$(RUN) scripts/workshop.py

bench: $(STAMP)
	$(RUN) -m benchmarks.training_step
	$(RUN) -m benchmarks.tensor_form
	$(RUN) -m benchmarks.tensor_form --growth
	$(RUN) -m benchmarks.attention_scaling
	$(RUN) -m benchmarks.bank
	$(RUN) -m benchmarks.influence
	$(RUN) -m benchmarks.certificates
	@test -n "$(CORPUS)" || { echo "For the time to a stated loss, name tiny-shakespeare as a text file: make bench CORPUS=input.txt"; exit 0; }
	@test -z "$(CORPUS)" || $(RUN) -m benchmarks.time_to_loss --corpus "$(CORPUS)" $(ARGS)

clean:
	rm -rf _build build *.egg-info .pytest_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print | xargs rm -rf

distclean: clean
	rm -rf $(VENV)
