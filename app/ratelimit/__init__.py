"""Rate limits for callers."""
