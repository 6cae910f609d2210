"""What a spec would make, cost and find, told before anything runs: nothing here starts Ray or loads a model."""
