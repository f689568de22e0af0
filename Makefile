.PHONY: help install demo lint check docs test test-slow mutants clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

.venv/installed: pyproject.toml constraints.txt scripts/install
	scripts/install

install: .venv/installed ## make .venv and install everything in it (done by the others where missing)

demo: .venv/installed ## train the four methods on embedded data, print a table, write a report
	scripts/demo

lint: .venv/installed ## repair formatting and simple lint
	scripts/lint

check: .venv/installed ## lint, formatting, types, import rules, documentation
	scripts/check

docs: .venv/installed ## build the documentation: build/docs/index.html
	scripts/docs

test: .venv/installed ## check, then run the tests except the slow ones
	scripts/test

test-slow: .venv/installed ## check, then run the slow tests only
	scripts/test -m slow

mutants: .venv/installed ## plant small bugs, one at a time, and count those that the tests see (an hour)
	scripts/mutants

clean: ## remove .venv and every cache (runs/ is kept)
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
