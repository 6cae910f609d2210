"""Benchmarks: peers side by side, in one run, on the same rows. `make bench [AREA=scoring]`."""
