"""Tools for the project's maintainers."""
