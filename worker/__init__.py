"""The top floor: workers, which do in the background what stands in the database and the queue rings for."""
