"""Benchmarks: `python -m benchmarks NAME`. Results are saved in benchmarks/results as JSON, with the machine's name."""
