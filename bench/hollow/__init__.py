"""Hollow nodes: a cluster full of GPUs and engines without either, as kubemark makes one of nodes alone.

`python -m bench.hollow` registers nodes with GPUs in a devcluster that has no node agent, says of every pod bound to
them that it runs, and answers for its engines, routers and GPU agents at the pod's own loopback address. The operator
sees a real API server, scheduler and controllers, and reads real HTTP answers; only nobody computes a token.
It is a process of its own, so that its CPU is not counted to the operator's.
"""
