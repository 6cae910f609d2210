"""Faults against whole runs: real processes, one machine, a model that is tiny enough for a run of a minute."""
