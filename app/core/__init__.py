"""What every other package of the service may use: threads, files, logs and the base of its errors."""
