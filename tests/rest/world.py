"""`python -m tests.rest.world`: fill a new database with a DAG, and with users whose names describe their permissions.

Runs in the environment of the Airflow that owns the database. The password of each user is the user's name.
"""

from __future__ import annotations

PERMISSIONS = ["DAG Runs", "Task Instances", "XComs"]
USERS = {
    "reads_all": ["DAGs", *PERMISSIONS],
    "reads_two": ["DAG:orders", "DAG:kpo_cleanup", *PERMISSIONS],
    # This is the label value of the DAG "commandes_à_faire", and at the same time the id of another DAG.
    "reads_namesake": ["DAG:commandes__faire-040595da3", "DAG:kpo_cleanup", *PERMISSIONS],
    "reads_no_xcoms": ["DAGs", "DAG Runs", "Task Instances"],
    "reads_no_runs": ["DAGs", "Task Instances", "XComs"],
    "reads_no_task_instances": ["DAGs", "DAG Runs", "XComs"],
    "reads_nothing": [],
}


def main() -> None:
    from airflow.cli.cli_parser import get_parser
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    arguments = get_parser().parse_args(["dags", "reserialize"])
    arguments.func(arguments)
    with get_application_builder() as builder:
        manager = builder.sm
        for name, resources in USERS.items():
            role = manager.add_role(name)
            for resource in resources:
                manager.add_permission_to_role(role, manager.create_permission("can_read", resource))
            assert manager.add_user(name, name, name, f"{name}@example.com", role, password=name)


if __name__ == "__main__":
    main()
