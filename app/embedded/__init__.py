"""The processes that a service on one machine starts beside itself: Valkey and workers."""
