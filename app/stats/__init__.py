"""What a user or the whole service has used."""
