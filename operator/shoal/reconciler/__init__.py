"""The only part of Shoal that touches a cluster: what was watched, what is decided, what is written.

`python -m shoal.reconciler` runs the operator.
"""
