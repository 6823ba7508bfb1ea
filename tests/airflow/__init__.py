"""Tests that need an Airflow, but no server and no run. They must pass on each Airflow that is supported."""
