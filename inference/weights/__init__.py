"""Checkpoint files: downloading, storing and loading them."""
