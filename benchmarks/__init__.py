"""Measures GridMap and others: python -m benchmarks."""
