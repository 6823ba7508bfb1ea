"""Tests that need an Airflow, but no server and no run; they must pass on every supported Airflow."""
