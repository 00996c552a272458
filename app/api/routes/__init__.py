"""The routes, a file for each part of the API."""

# In the order in which they are read.
TAGS = [
    {"name": "background remover", "description": "Prices, one photo, its job, and the credits it costs."},
    {"name": "batches", "description": "Many photos at once: handed in, watched, fetched as a ZIP."},
    {"name": "subscription", "description": "A plan and its daily quota, and buying plans and credits."},
    {"name": "statistics", "description": "What was done, and what it brought."},
    {"name": "account", "description": "Logging in, and API keys."},
    {"name": "admin", "description": "Granting credits, and saying that payments have come."},
    {"name": "health", "description": "Whether pictures can be made here, and with what."},
    {"name": "metrics", "description": "Figures for Prometheus."},
]
