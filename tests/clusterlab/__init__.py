"""A Kubernetes of our own for the tests: programs from Go modules, a control plane, simulated nodes and trainer.

`python -m clusterlab` (with `tests` on the path; `scripts/cluster` sees to that) builds the binaries and leaves a
cluster running to play with. Tests take the fixtures of `clusterlab.fixtures`.
"""
