"""`python -m tests.rest.world`: the content of a new database: a DAG, and users whose names tell their rights.

Runs in the environment of the Airflow whose database it is. The password of each user is the name.
"""

from __future__ import annotations

RIGHTS = ["DAG Runs", "Task Instances", "XComs"]
USERS = {
    "reads_all": ["DAGs", *RIGHTS],
    "reads_two": ["DAG:orders", "DAG:kpo_cleanup", *RIGHTS],
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
