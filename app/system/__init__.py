"""Health, metrics and the page."""
