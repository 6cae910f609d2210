"""Looking at stored scores: how they are spread, how scorers agree, and which rows lie where.

Everything counts all rows, by polars over the joined table of scores; only the rows that a person reads are a sample.
"""
