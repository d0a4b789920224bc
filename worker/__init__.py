"""HOW a delivery happens: outbox, pipeline, platforms, history and mirror."""
