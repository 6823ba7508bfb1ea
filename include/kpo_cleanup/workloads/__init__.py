"""Workloads: what operators create for task instances, and what the cleanup deletes as one object."""
