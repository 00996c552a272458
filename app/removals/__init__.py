"""Removing the background of one photo while its caller waits."""
