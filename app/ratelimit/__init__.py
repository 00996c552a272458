"""Limits on how often a caller may do something."""
