# Everything installs what it needs into .work/, which `make clean` removes. Python 3.11 or 3.12 must be there.
AIRFLOW_2 := 2.11.2
AIRFLOW_3 := 3.3.2
DATE := 2026-11-20

# Airflow 2 brings the SQLite provider along; the metadata connection of Airflow 3 needs it in the tests.
ENV_2 = scripts/airflow-env $(AIRFLOW_2) $(DATE)
ENV_3 = scripts/airflow-env $(AIRFLOW_3) $(DATE) apache-airflow-providers-sqlite

# Benchmarks have packages of their own, and so environments of their own.
BENCH_PACKAGES = $(shell sed '/^\#/d' bench/requirements.txt)

.PHONY: help demo test test-cluster bench lint types format clean

help:
	@echo "make demo          zombie pods go and live ones stay, before your eyes (KEEP=1 leaves the UI up;"
	@echo "                   KUBECONFIG=… NAMESPACE=… takes your own cluster)"
	@echo "make test          all tests on Airflow $(AIRFLOW_2) and $(AIRFLOW_3)"
	@echo "make test-cluster  the tests against a real kube-apiserver (built with Go the first time)"
	@echo "make bench         figures and plots into docs/benchmarks/ (BENCH=\"--sizes 1000 listing\" for a part of them)"
	@echo "make lint types format clean"

# Only what was given to make itself: an exported KUBECONFIG must not lead the demo to somebody's cluster.
given = $(if $(filter command line,$(origin $(1))),$(2))

demo:
	@python=$$($(ENV_3)) && exec $$python -m demo $(call given,KEEP,--keep) \
		$(call given,KUBECONFIG,--kubeconfig "$(KUBECONFIG)") $(call given,NAMESPACE,--namespace "$(NAMESPACE)")

# The embedded cluster and the faults of the network have nothing to do with the Airflow; one of them will do.
test:
	@python=$$($(ENV_3)) && echo "Tests on Airflow $(AIRFLOW_3)" && $$python -m pytest tests -m "not cluster and not real"
	@python=$$($(ENV_2)) && echo "Tests on Airflow $(AIRFLOW_2)" && $$python -m pytest tests/unit tests/dag tests/test_metrics.py -m "not cluster"

test-cluster:
	@python=$$($(ENV_3)) && $$python -m tests.control_plane && $$python -m pytest tests -m cluster

bench:
	@scripts/debian-packages '/usr/lib/postgresql/*/bin/initdb=postgresql' mariadbd=mariadb-server \
		'/usr/include/mariadb/mysql.h=libmariadb-dev' pkg-config=pkg-config cc=gcc
	@other=$$(ENV_SUFFIX=-bench $(ENV_2) $(BENCH_PACKAGES)) && python=$$(ENV_SUFFIX=-bench $(ENV_3) $(BENCH_PACKAGES)) \
		&& $$python -m tests.control_plane && exec $$python -m bench --airflow-2 "$$other" $(BENCH)

lint:
	@python=$$($(ENV_3)) && $$python -m ruff check . && $$python -m ruff format --check .

types:
	@python=$$($(ENV_3)) && $$python -m mypy include dags demo tests bench

format:
	@python=$$($(ENV_3)) && $$python -m ruff check --fix . && $$python -m ruff format .

clean:
	rm -rf .work
