"""The proof bench: real processes, one kind of fault a run, the platforms' records as judge."""
