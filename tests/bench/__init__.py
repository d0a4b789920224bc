"""How fast, at what cost: `python -m tests.bench`, or `mirrorpost bench` in a checkout."""
