.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) ## virtual environment in .venv, from the hash-locked requirements

$(STAMP): requirements/dev.txt requirements/uv.txt pyproject.toml
	@echo "setup: virtual environment in .venv; PyTorch makes it several GB, a few minutes the first time"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip sync --require-hashes requirements/dev.txt
	@$(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: $(STAMP) ## the main job: a year of real flights, from Kafka to a trained model, checked
	@$(BIN)/featurestore demo

dev: $(STAMP) ## Kafka, Valkey, a worker and the HTTP server, until Ctrl-C
	@exec $(BIN)/featurestore dev

test: $(STAMP) ## all tests, against real servers that they start themselves; two at a time, since most wait
	@$(BIN)/python -m pytest -n 2 --dist worksteal --durations 20

check: $(STAMP) ## formatting, lint, types, import walls
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

SEEDS ?= 10000
simulate: $(STAMP) ## histories of kills, zombies and lost tails, in memory: no event lost, none twice
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS)

histories: $(STAMP) ## a million histories of batches and rebalances, and a thousand of writers of one real log (some minutes)
	@$(BIN)/python -m tests.transport_histories --seeds 1000000
	@$(BIN)/python -m tests.log_histories --seeds 1000

ROUNDS ?= 1
faults: $(STAMP) ## the fault matrix with real processes, judged by an oracle; about twenty minutes a round
	@$(BIN)/python -m tests.campaign --rounds $(ROUNDS)

MINUTES ?= 10
soak: $(STAMP) ## full rate with kills: memory, descriptors and lag stay flat, values exact; draws soak.svg
	@$(BIN)/python -m tests.campaign.soak --minutes $(MINUTES) --plot soak.svg

mutants: $(STAMP) ## plant faults one at a time; the tests must find every one (an hour and a half)
	@$(BIN)/python -m tests.mutants

bench: $(STAMP) ## all benchmarks: ratios against a peer or a limit, side by side
	@$(BIN)/featurestore bench kernel
	@$(BIN)/featurestore bench stream

lock: ## resolve the requirements again
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11 --extra demo --group dev pyproject.toml -o requirements/dev.txt
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11 --extra server --extra stream --extra feast --group build pyproject.toml -o requirements/service.txt
	@echo "uv" | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links --python-version 3.11 - -o requirements/uv.txt

.PHONY: help setup demo dev test check simulate histories faults soak mutants bench lock
