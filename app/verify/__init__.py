"""The whole checklist against a running deployment, over HTTP alone."""
