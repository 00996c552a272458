"""Delivery of results to the users' own stores: to signed addresses, and to buckets that the operator has assigned."""
