"""Batches of photos: upload, billing, progress, cancellation and download."""
