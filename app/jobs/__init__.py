"""Jobs of one photo each: their rows, leases and queue."""
