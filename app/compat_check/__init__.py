"""`cutout compat-check`: an integration's calls for another API, tried on a running service over HTTP only."""
