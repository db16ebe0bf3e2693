# The commands of this project. Each prepares what it needs (Tools/setup.sh) and then does its work.
# PYTHON=python3.12 chooses the interpreter, WORKERS=4 the test processes.

.DEFAULT_GOAL := help
.PHONY: help demo test lint format wheel constraints clean distclean

DEMO_GROUPS := train report
TEST_GROUPS := train report test benchmark module
WORKERS ?= 2

BIN := .venv/bin
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1
CHECKED := LungSegmentationLib LungSegmentation Testing Tools

export PYTHON DICOM MODEL

help: ## show these lines
	@grep -hE '^[a-z]+: .*##' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 22

demo: ## synthetic patients through the whole way, to a report; DICOM=folder (and MODEL=file) takes your own
	@sh Tools/setup.sh $(DEMO_GROUPS)
	@if [ -n "$$DICOM" ]; then $(BIN)/lungseg demo demo/own --dicom "$$DICOM" $${MODEL:+--model "$$MODEL"}; else $(BIN)/lungseg demo demo; fi

test: ## check style and types, then run all tests
	@sh Tools/setup.sh $(TEST_GROUPS)
	@failed=; \
	$(BIN)/ruff check $(CHECKED) || failed="$$failed ruff-check"; \
	$(BIN)/ruff format --check --quiet $(CHECKED) || failed="$$failed ruff-format"; \
	$(BIN)/mypy || failed="$$failed mypy"; \
	[ -z "$$failed" ] || echo "These checks failed, the tests follow all the same:$$failed"; \
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile || failed="$$failed pytest"; \
	[ -z "$$failed" ]

lint: ## check style and types only
	@sh Tools/setup.sh $(TEST_GROUPS)
	@$(BIN)/ruff check $(CHECKED)
	@$(BIN)/ruff format --check $(CHECKED)
	@$(BIN)/mypy

format: ## lay out the Python files and mend what can be mended
	@sh Tools/setup.sh $(TEST_GROUPS)
	@$(BIN)/ruff check --fix $(CHECKED)
	@$(BIN)/ruff format $(CHECKED)

wheel: ## build the Python package into dist
	@sh Tools/setup.sh $(TEST_GROUPS)
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w dist .
	@ls dist/*.whl

constraints: ## write the versions in .venv, which were tested, to constraints.txt
	@sh Tools/setup.sh $(TEST_GROUPS)
	@$(BIN)/python Tools/constraints.py constraints.txt

clean: ## delete what the commands made: demo, build, dist, caches
	rm -rf demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find LungSegmentationLib Testing Tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## and the environment .venv
	rm -rf .venv
