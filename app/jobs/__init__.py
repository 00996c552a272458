"""Jobs, each for one photo: their rows, leases and queue."""
