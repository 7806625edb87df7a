"""The node agent: one process that is the kubelet of every node of a devcluster.

Pods become processes, each on its own loopback address. What a kubelet promises to those who watch the API (order of
starts, probes, restarts, grace, exit codes, status) is kept; what a container runtime promises to those inside
(namespaces, file systems, limits) is not.
"""
