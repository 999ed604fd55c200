"""Benchmarks of the hot paths, each beside a baseline that is measured in the same run."""
