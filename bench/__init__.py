"""Benchmarks that compare kpo_cleanup with alternatives and with the theoretical minimum. `make bench` runs them all.

Each part is a module with `measure(bench: Bench) -> Iterator[Figure | Point]`, registered in `__main__.PARTS`.
"""
