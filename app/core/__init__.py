"""Utilities for every other package of the service: threads, files, logging and the base class of errors."""
