"""Measures GridMap beside its peers, on a cluster, and at scale: docs/performance.rst."""
