"""Benchmarks: the product beside its peers and beside the floor. `make bench` runs them all.

Each part is a module with `measure(bench: Bench) -> Iterator[Figure | Point]`, named in `__main__.PARTS`.
"""
