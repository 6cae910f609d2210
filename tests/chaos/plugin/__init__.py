"""A user's own scorer, in a package by itself: its fingerprint follows whatever lies beside it."""
