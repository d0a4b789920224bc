"""Broadcasts: one message to an audience, checked, fanned out, fed at a pace, steered."""
