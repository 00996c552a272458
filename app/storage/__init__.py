"""Storage of photos and results: a local folder or an S3 bucket."""
