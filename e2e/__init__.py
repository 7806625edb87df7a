"""End-to-end parts: the embedded control plane, the devcluster and the scenarios that run on it."""
