# make demo   set up, then pretrain on the embedded demo barcodes and print what it learned
# make test   set up, then every notebook, the tests and the checks
# make lab    set up, then JupyterLab
# make benchmark  set up, then time and memory of each step beside a plain baseline (about 15 minutes on two cores, 10 GB of disk)
# make paper  every table and figure of the paper, on the data set of settings.ini or DATASET=... (stopped, it goes on from there)
# make gpu-kit  all that a GPU machine without network needs for the run of tools/gpu_kit.py, in gpu-kit/ (DATA=mine.csv: your barcodes)
# make docs   all notebooks as pages in docs/, with side bar and search, readable without a network
# make readme README.md from nbs/index.ipynb
# make clean  remove .venv, packed data sets and Python's caches; runs/ stays
# The Python that .venv is made from: make PYTHON=python3.12 demo

PYTHON ?= python3
BIN = .venv/bin
PY = $(BIN)/python
RUN = runs/demo
BENCHMARK = runs/benchmark
GRIDS = table1 figure3 depends table2 table3 scratch
TABLES = table1 table2 table3 scratch

.PHONY: demo test lab benchmark paper leaderboard gpu-kit docs readme clean setup
.DEFAULT_GOAL := demo

setup: .venv/.installed

# made anew only when what it depends on has changed
.venv/.installed: pyproject.toml tools/setup.py
	@$(PYTHON) tools/setup.py

demo: setup
	@mkdir -p $(RUN)
	@echo "demo: running nbs/04_train.ipynb on data/demo_barcodes.csv.gz (its first lines come in about 20 seconds)"
	@$(BIN)/papermill nbs/04_train.ipynb $(RUN)/04_train.ipynb -p preset demo -p dataset demo -p run_dir "$(CURDIR)/$(RUN)" \
	    --no-progress-bar --stdout-file - --stderr-file -
	@echo "demo: the executed notebook is $(RUN)/04_train.ipynb; its results:"
	@$(PY) -m barcodemae.evaluation.report $(RUN)

test: setup
	@$(PY) tools/check.py

lab: setup
	@echo "lab: opening nbs/index.ipynb"
	@$(BIN)/jupyter lab nbs/index.ipynb

benchmark: setup
	@mkdir -p $(BENCHMARK)
	@echo "benchmark: running nbs/experiments/benchmark.ipynb; a run that was interrupted continues"
	@$(BIN)/papermill nbs/experiments/benchmark.ipynb $(BENCHMARK)/benchmark.ipynb -p run_dir "$(CURDIR)/$(BENCHMARK)" --no-progress-bar --stdout-file - --stderr-file -
	@echo "benchmark: the executed notebook is $(BENCHMARK)/benchmark.ipynb; its results:"
	@$(PY) tools/benchmark.py table $(BENCHMARK)/results.json

# finished runs are skipped, interrupted ones continue; tables are made of what is there, also when a run failed
paper: setup
	@dataset=$${DATASET:-$$($(PY) -c 'from barcodemae.settings import load_settings; print(load_settings().dataset)')}; \
	    place=runs/paper/$$(basename "$$dataset"); mkdir -p "$$place"; failed=0; \
	    echo "paper: the runs of $(GRIDS) on $$dataset"; \
	    $(PY) -m barcodemae.training.sweep $(GRIDS) --dataset "$$dataset" || failed=1; \
	    for table in $(TABLES); do \
	        echo "paper: $$place/$$table.ipynb"; \
	        $(BIN)/papermill nbs/experiments/$$table.ipynb "$$place/$$table.ipynb" -p dataset "$$dataset" -p kept "$(CURDIR)/$$place/$$table.json" --no-progress-bar || failed=1; \
	    done; \
	    echo "paper: tables are in $$place, figures in figures"; exit $$failed

# models are trained that are not there yet; systems that were asked before are skipped, those without weights or program are told by name
leaderboard: setup
	@dataset=$${DATASET:-$$($(PY) -c 'from barcodemae.settings import load_settings; print(load_settings().dataset)')}; name=$$(basename "$$dataset"); \
	    runs=$$($(PY) -c 'from barcodemae.settings import load_settings; print(load_settings().runs)'); place=runs/leaderboard/$$name; mkdir -p "$$place"; failed=0; \
	    $(PY) -m barcodemae.training.sweep table1 architectures --dataset "$$dataset" || failed=1; \
	    $(PY) -m barcodemae.bench.cnn "$$place/cnn" --dataset "$$dataset" --epochs 5 || failed=1; \
	    $(PY) -m barcodemae.bench.run --dataset "$$dataset" --runs $$($(PY) -m barcodemae.training.sweep table1 architectures --dataset "$$dataset" --list | sed -n "s|^done *|$$runs/grids/$$name/|p") --cnn "$$place/cnn" || failed=1; \
	    $(BIN)/papermill nbs/experiments/leaderboard.ipynb "$$place/leaderboard.ipynb" -p dataset "$$dataset" -p kept "$(CURDIR)/$$place/leaderboard.json" --no-progress-bar || failed=1; \
	    echo "leaderboard: $$place/leaderboard.ipynb, its figure is in figures"; exit $$failed

gpu-kit: setup
	@$(PY) tools/gpu_kit.py pack gpu-kit $(if $(DATA),--data $(DATA))

docs: setup
	@$(PY) tools/docs.py

readme: setup
	@$(PY) tools/readme.py

clean:
	rm -rf .venv cache .pytest_cache .hypothesis *.egg-info build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
