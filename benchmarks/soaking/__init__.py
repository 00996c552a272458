"""A service under mixed load for a long time, or under a crowd: how it is started, loaded, watched and judged."""
