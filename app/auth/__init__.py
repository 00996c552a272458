"""Authentication: users, API keys, and tokens of this service or of an external platform."""
