"""Health check, metrics and web pages."""
