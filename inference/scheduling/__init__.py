"""Which photo meets the device when: batches, fairness, memory."""
