"""E-mail and webhook notifications about finished batches."""
