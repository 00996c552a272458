"""Checkpoints: fetching, keeping and loading them."""
