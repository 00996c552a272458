"""Checklist against a running deployment, over HTTP only."""
