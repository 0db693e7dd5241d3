# make demo         set up, pretrain on the simulated demo barcodes, identify them, and show what came out (minutes)
# make test         set up, then every notebook, the tests and the checks
# make lab          set up, then JupyterLab
# make benchmark    time and memory of each step and command beside others (25 minutes on two cores, 10 GB of disk)
# make paper        every table and figure of the paper, on the data set of settings.ini or DATASET=...; resumes
#                   (SWEEP="--workers 4" or SWEEP="--slurm slurm_partition=gpu gpu=1": where its runs work)
# make leaderboard  every system on the same questions, on the data set of settings.ini or DATASET=...
# make gpu-kit      a run for a GPU machine without network, in gpu-kit/ (DATA=mine.csv: your barcodes)
# make docs         all notebooks as pages in docs/, with side bar and search, readable without a network
# make readme       README.md from nbs/index.ipynb
# make wheel        wheel and sdist in dist/ (OUT=folder: elsewhere), with the encoder; checked
# make clean        remove .venv, packed data sets and Python's caches; runs/ stays
# The Python that .venv is made from: make PYTHON=python3.12 demo

PYTHON ?= python3
BIN = .venv/bin
PY = $(BIN)/python
BARCODEMAE = $(BIN)/barcodemae
PAPERMILL = $(BIN)/papermill --no-progress-bar
SETTING = $(PY) -c 'import sys, barcodemae.settings as s; print(getattr(s.load_settings(), sys.argv[1]))'
RUN = runs/demo
BENCHMARK = runs/benchmark
GRIDS = table1 figure3 depends lengths table2 table3 scratch
TABLES = table1 table2 table3 scratch
BOARD = architectures

# data sets that may not be passed on with the project (data/README.md), where a folder beside it has them
export BARCODEMAE_COI_MINI ?= $(wildcard $(CURDIR)/../shared/data/coi_mini.csv.gz)
export BARCODEMAE_ANNELIDA ?= $(wildcard $(CURDIR)/../shared/data/annelida.csv.gz)
export BARCODEMAE_AMPHIBIA ?= $(wildcard $(CURDIR)/../shared/data/amphibia.csv.gz)

.PHONY: demo test lab benchmark paper leaderboard gpu-kit docs readme wheel clean setup
.DEFAULT_GOAL := demo

setup: .venv/.installed

# made anew only when what it depends on has changed
.venv/.installed: pyproject.toml tools/setup.py
	@$(PYTHON) tools/setup.py

demo: setup
	@mkdir -p $(RUN)
	@echo "demo: running nbs/04_train.ipynb on data/demo_barcodes.csv.gz (first lines in about 20 seconds)"
	@$(PAPERMILL) nbs/04_train.ipynb $(RUN)/04_train.ipynb --stdout-file - --stderr-file - \
	    -p preset demo -p dataset demo -p run_dir "$(CURDIR)/$(RUN)"
	@$(PY) tools/demo.py $(RUN)

test: setup
	@$(PY) tools/check.py

lab: setup
	@echo "lab: opening nbs/index.ipynb"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter lab nbs/index.ipynb

benchmark: setup
	@mkdir -p $(BENCHMARK)
	@echo "benchmark: running nbs/experiments/benchmark.ipynb; a run that was interrupted continues"
	@$(PAPERMILL) nbs/experiments/benchmark.ipynb $(BENCHMARK)/benchmark.ipynb --stdout-file - --stderr-file - \
	    -p run_dir "$(CURDIR)/$(BENCHMARK)"
	@echo "benchmark: running nbs/experiments/waiting.ipynb"
	@$(PAPERMILL) nbs/experiments/waiting.ipynb $(BENCHMARK)/waiting.ipynb --stdout-file - --stderr-file - \
	    -p measure True -p most 32000 -p kept "$(CURDIR)/$(BENCHMARK)/waiting.json"
	@echo "benchmark: the executed notebooks are in $(BENCHMARK); their results:"
	@$(PY) tools/benchmark.py table $(BENCHMARK)/results.json
	@$(PY) tools/benchmark.py waiting $(BENCHMARK)/waiting.json

# finished runs are skipped, interrupted ones continue; tables are made of what is there
paper: setup
	@dataset=$${DATASET:-$$($(SETTING) dataset)}; failed=0; \
	    place=runs/paper/$$(basename "$$dataset"); mkdir -p "$$place"; \
	    echo "paper: the runs of $(GRIDS) on $$dataset"; \
	    $(BARCODEMAE) sweep $(GRIDS) --dataset "$$dataset" $(SWEEP) || failed=1; \
	    for table in $(TABLES); do \
	        echo "paper: $$place/$$table.ipynb"; \
	        $(PAPERMILL) nbs/experiments/$$table.ipynb "$$place/$$table.ipynb" -p dataset "$$dataset" \
	            -p kept "$(CURDIR)/$$place/$$table.json" || failed=1; \
	    done; \
	    echo "paper: tables are in $$place, figures in figures"; exit $$failed

# models are trained that are not there yet; systems that were asked before are skipped, those without weights
# or program are named; BOARD="architectures scratch" adds fine-tuned encoders
leaderboard: setup
	@dataset=$${DATASET:-$$($(SETTING) dataset)}; failed=0; \
	    place=runs/leaderboard/$$(basename "$$dataset"); mkdir -p "$$place"; \
	    $(BARCODEMAE) sweep $(BOARD) --dataset "$$dataset" $(SWEEP) || failed=1; \
	    $(BARCODEMAE) cnn "$$place/cnn" --dataset "$$dataset" --epochs 5 || failed=1; \
	    $(BARCODEMAE) bench --dataset "$$dataset" --grids $(BOARD) --cnn "$$place/cnn" || failed=1; \
	    $(PAPERMILL) nbs/experiments/leaderboard.ipynb "$$place/leaderboard.ipynb" -p dataset "$$dataset" \
	        -p kept "$(CURDIR)/$$place/leaderboard.json" || failed=1; \
	    echo "leaderboard: $$place/leaderboard.ipynb, its figure is in figures"; exit $$failed

gpu-kit: setup
	@$(PY) tools/gpu_kit.py pack gpu-kit $(if $(DATA),--data $(DATA))

docs: setup
	@$(PY) tools/docs.py

readme: setup
	@$(PY) tools/readme.py

wheel: setup
	@$(PY) tools/wheel.py $(or $(OUT),dist)

clean:
	rm -rf .venv cache .pytest_cache .hypothesis *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
