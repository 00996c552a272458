"""Calls to URLs that clients supply, protected against SSRF."""
