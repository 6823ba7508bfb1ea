"""What needs an Airflow, but no server and no run: each Airflow that is supported must agree."""
