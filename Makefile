# Everything installs what it needs into .work/, which `make clean` removes. Python 3.11 or 3.12 must be there.
AIRFLOW_2 := 2.11.2
AIRFLOW_3 := 3.3.2
DATE := 2026-11-20

# Airflow 2 brings the SQLite provider along; the metadata connection of Airflow 3 needs it in the tests.
ENV_2 = scripts/airflow-env $(AIRFLOW_2) $(DATE)
ENV_3 = scripts/airflow-env $(AIRFLOW_3) $(DATE) apache-airflow-providers-sqlite

.PHONY: help demo test test-cluster test-ui screenshots lint types format clean

help:
	@echo "make demo          zombie pods go and live ones stay, before your eyes (KEEP=1 leaves the UI up;"
	@echo "                   KUBECONFIG=… NAMESPACE=… takes your own cluster)"
	@echo "make test          all tests on Airflow $(AIRFLOW_2) and $(AIRFLOW_3)"
	@echo "make test-cluster  the tests against a real kube-apiserver (built with Go the first time)"
	@echo "make test-ui       Airflow's UI in a browser, on both; 'make screenshots' is the same, for the pictures"
	@echo "make lint types format clean"

# Only what was given to make itself: an exported KUBECONFIG must not lead the demo to somebody's cluster.
given = $(if $(filter command line,$(origin $(1))),$(2))

demo:
	@python=$$($(ENV_3)) && exec $$python -m demo $(call given,KEEP,--keep) \
		$(call given,KUBECONFIG,--kubeconfig "$(KUBECONFIG)") $(call given,NAMESPACE,--namespace "$(NAMESPACE)")

# The embedded cluster and the faults of the network have nothing to do with the Airflow; one of them will do.
test:
	@python=$$($(ENV_3)) && echo "Tests on Airflow $(AIRFLOW_3)" && $$python -m pytest tests -m "not cluster and not ui"
	@python=$$($(ENV_2)) && echo "Tests on Airflow $(AIRFLOW_2)" && $$python -m pytest tests/unit tests/dag tests/test_metrics.py -m "not cluster"

test-cluster:
	@python=$$($(ENV_3)) && $$python -m tests.control_plane && $$python -m pytest tests -m cluster

# One code path: the tests take the pictures.
test-ui screenshots:
	@scripts/debian-packages chromium=chromium
	@python=$$($(ENV_3)) && $$python -m pytest tests/ui -m ui
	@python=$$($(ENV_2)) && $$python -m pytest tests/ui -m ui
	@echo "The pictures are in .work/screenshots/"

lint:
	@python=$$($(ENV_3)) && $$python -m ruff check . && $$python -m ruff format --check .

types:
	@python=$$($(ENV_3)) && $$python -m mypy include dags demo tests

format:
	@python=$$($(ENV_3)) && $$python -m ruff check --fix . && $$python -m ruff format .

clean:
	rm -rf .work
