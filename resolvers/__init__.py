"""WHO a message is for: identity links, their stores, and the context of a session."""
