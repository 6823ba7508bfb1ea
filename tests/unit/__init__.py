"""The pure logic and the small interfaces: no cluster, no Airflow database."""
