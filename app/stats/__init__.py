"""Statistics on the usage of one user or of the whole service."""
