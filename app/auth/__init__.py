"""Users, API keys and the tokens of another platform."""
