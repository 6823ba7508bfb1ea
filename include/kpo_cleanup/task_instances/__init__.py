"""Look up task instances: one module per source behind ``interface``; ``choice`` selects the one that a run uses."""
