# Each target installs its packages into .work/, which `make clean` removes. It needs Python 3.11 or 3.12.
AIRFLOW_2 := 2.11.2
AIRFLOW_3 := 3.3.2
DATE := $(shell sed -n 's/^NEWEST = "\(.*\)"$$/\1/p' tests/matrix.py)

# Airflow 2 comes with the SQLite provider. In the tests of Airflow 3, the metadata connection needs it. The Git provider
# is for the tests that install the DAG from a Git repository.
ENV_2 = scripts/airflow-env $(AIRFLOW_2) $(DATE)
ENV_3 = scripts/airflow-env $(AIRFLOW_3) $(DATE) apache-airflow-providers-sqlite apache-airflow-providers-git

# Drivers for other databases, in environments of their own: so a change here does not make the others again.
REAL := apache-airflow-providers-postgres apache-airflow-providers-mysql
ENV_REAL_2 = ENV_SUFFIX=-real scripts/airflow-env $(AIRFLOW_2) $(DATE) $(REAL)
ENV_REAL_3 = ENV_SUFFIX=-real scripts/airflow-env $(AIRFLOW_3) $(DATE) $(REAL)

# The FAB auth manager has users with few rights.
FAB := apache-airflow-providers-sqlite apache-airflow-providers-fab
ENV_REST_3 = ENV_SUFFIX=-rest scripts/airflow-env $(AIRFLOW_3) $(DATE) $(FAB)
ENV_REST_3_0 = ENV_SUFFIX=-rest scripts/airflow-env 3.0.6 2025-09-15 $(FAB)

# The benchmarks' packages, in environments of their own.
BENCH_PACKAGES = $(shell sed '/^\#/d' bench/requirements.txt)

.PHONY: help demo unit test test-airflow-2 test-dags-3 test-servers test-random test-matrix test-cluster test-install test-real \
	test-rest test-ui screenshots bench dist lint types format \
	clean explore

help:
	@echo "make demo          zombie pods are deleted, live ones stay, before your eyes (KEEP=1 leaves the UI up;"
	@echo "                   KUBECONFIG=… NAMESPACE=… takes your own cluster)"
	@echo "make unit          the tests that need neither Airflow nor a server, in seconds (T=path K=expression ARGS=--lf)"
	@echo "make test          all tests on Airflow $(AIRFLOW_2) and $(AIRFLOW_3)"
	@echo "make test-random   more of the random worlds and faults"
	@echo "make test-matrix   the DAG's tests on every supported Airflow (ROWS=… takes some of them)"
	@echo "make test-cluster  the tests against a real kube-apiserver (built with Go the first time)"
	@echo "make test-install  installs the DAG in each way of the README, on both Airflows, and runs it"
	@echo "make dist          one zip for the dags folder"
	@echo "make explore       20,000 random histories (MACHINE=operator drives the real operator; AIRFLOW=2"
	@echo "                   takes Airflow $(AIRFLOW_2); HISTORIES=… SEED=…)"
	@echo "make test-real     a real Airflow with PostgreSQL, killed workers and a restart; MariaDB"
	@echo "make test-rest     the REST API as source, over real API servers of the oldest and the newest Airflow 3"
	@echo "make test-ui       Airflow's UI in a browser, on both; 'make screenshots' is the same, for the pictures"
	@echo "make bench         figures and plots into docs/benchmarks/ (BENCH=\"--sizes 1000 listing\" for a part of them)"
	@echo "make lint types format clean"

# Only values on make's command line: an exported KUBECONFIG must not lead the demo to somebody's cluster.
given = $(if $(filter command line,$(origin $(1))),$(2))

demo:
	@python=$$($(ENV_3)) && exec $$python -m demo $(call given,KEEP,--keep) \
		$(call given,KUBECONFIG,--kubeconfig "$(KUBECONFIG)") $(call given,NAMESPACE,--namespace "$(NAMESPACE)")

unit:
	@python=$$(scripts/unit-env $(DATE)) && $$python -m pytest $(or $(call given,T,"$(T)"),tests/unit) $(call given,K,-k "$(K)") $(call given,ARGS,$(ARGS))

# The parts run side by side, for each has its own home and ports. The output of each comes at its end.
test: unit
	@$(ENV_3) >/dev/null && $(ENV_2) >/dev/null # one after the other: they share a download cache
	@$(MAKE) --no-print-directory -j3 -Otarget test-dags-3 test-airflow-2 test-servers

# The embedded cluster and the faults of the network do not depend on Airflow; one Airflow is enough for them.
test-servers:
	@python=$$($(ENV_3)) && echo "Tests of servers and faults on Airflow $(AIRFLOW_3)" && \
		$$python -m pytest tests --ignore tests/unit --ignore tests/airflow --ignore tests/dag

test-dags-3:
	@python=$$($(ENV_3)) && echo "Tests on Airflow $(AIRFLOW_3)" && $$python -m pytest tests/airflow tests/dag

test-airflow-2:
	@python=$$($(ENV_2)) && echo "Tests on Airflow $(AIRFLOW_2)" && \
		$$python -m pytest tests/airflow tests/dag tests/test_metrics.py tests/faults/test_operator_histories.py

# More of the random worlds and faults.
test-random:
	@python=$$($(ENV_3)) && \
		HYPOTHESIS_PROFILE=more $$python -m pytest tests/unit tests/airflow tests/faults/test_random_faults.py \
			tests/faults/test_operator_histories.py

test-matrix:
	@python3 -m tests.matrix $(ROWS)

test-cluster:
	@python=$$($(ENV_3)) && $$python -m tests.control_plane --controller-manager && $$python -m pytest tests -m cluster

test-install:
	@scripts/debian-packages git=git
	@python=$$($(ENV_3)) && echo "Installing on Airflow $(AIRFLOW_3)" && $$python -m pytest tests/install -m install
	@python=$$($(ENV_2)) && echo "Installing on Airflow $(AIRFLOW_2)" && $$python -m pytest tests/install -m install

explore:
	@python=$$($(ENV_$(or $(AIRFLOW),3))) && exec $$python -m tests.faults.explore $(if $(MACHINE),--machine $(MACHINE)) \
		$(if $(HISTORIES),--histories $(HISTORIES)) $(if $(SEED),--seed $(SEED))

dist:
	@python3 scripts/dist.py

test-real:
	@scripts/debian-packages '/usr/lib/postgresql/*/bin/initdb=postgresql' mariadbd=mariadb-server mariadb_config=libmariadb-dev
	@python=$$($(ENV_REAL_3)) && echo "Real runs on Airflow $(AIRFLOW_3)" && $$python -m pytest tests/real -m real
	@python=$$($(ENV_REAL_2)) && echo "Real runs on Airflow $(AIRFLOW_2)" && $$python -m pytest tests/real -m real

test-rest:
	@python=$$($(ENV_REST_3)) && echo "REST API of Airflow $(AIRFLOW_3)" && $$python -m pytest tests/rest -m rest
	@python=$$($(ENV_REST_3_0)) && echo "REST API of Airflow 3.0.6" && $$python -m pytest tests/rest -m rest

# The tests take the pictures, so that there is one way only.
test-ui screenshots:
	@scripts/debian-packages chromium=chromium
	@python=$$($(ENV_3)) && $$python -m pytest tests/ui -m ui
	@python=$$($(ENV_2)) && $$python -m pytest tests/ui -m ui
	@echo "The pictures are in .work/screenshots/"

bench:
	@scripts/debian-packages '/usr/lib/postgresql/*/bin/initdb=postgresql' mariadbd=mariadb-server \
		'/usr/include/mariadb/mysql.h=libmariadb-dev' pkg-config=pkg-config cc=gcc
	@other=$$(ENV_SUFFIX=-bench $(ENV_2) $(BENCH_PACKAGES)) && python=$$(ENV_SUFFIX=-bench $(ENV_3) $(BENCH_PACKAGES)) \
		&& $$python -m tests.control_plane && exec $$python -m bench --airflow-2 "$$other" $(BENCH)

lint:
	@python=$$($(ENV_3)) && $$python -m ruff check . && $$python -m ruff format --check .

types:
	@python=$$($(ENV_3)) && $$python -m mypy include dags demo scripts tests bench

format:
	@python=$$($(ENV_3)) && $$python -m ruff check --fix . && $$python -m ruff format .

clean:
	rm -rf .work dist
