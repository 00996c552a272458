"""Mail and webhooks about finished batches."""
