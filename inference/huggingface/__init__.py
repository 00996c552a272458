"""The networks on the Hugging Face API, for hosts without a GPU."""
