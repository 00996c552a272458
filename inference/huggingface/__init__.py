"""Networks that run remotely on the Hugging Face API, for hosts without a GPU."""
