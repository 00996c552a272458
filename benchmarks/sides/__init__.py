"""The sides of comparisons between processes; each runs as a script in its own interpreter."""
