"""Batches of photos: from the upload to the progress that a client follows."""
