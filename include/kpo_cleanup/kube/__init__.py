"""The Kubernetes API: ``interface`` is what the rest of the package uses, and ``workloads`` implements it."""
