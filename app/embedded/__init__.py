"""The child processes of a single-machine service: Valkey and workers."""
