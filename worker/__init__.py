"""The top floor, for work in the background. Batches move in here; nothing does yet."""
