"""Rendering: what a delivery says becomes what a platform takes. Pure."""
