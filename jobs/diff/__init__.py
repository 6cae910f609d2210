"""What two finished runs have in common and where they differ: spec, artifacts, versions, rates and estimands."""
