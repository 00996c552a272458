"""Measurements: `python -m benchmarks NAME`. Results land in benchmarks/results as JSON, with the machine named."""
