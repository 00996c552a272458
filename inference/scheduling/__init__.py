"""Scheduling of photos on the device: batches, fairness between callers, memory."""
