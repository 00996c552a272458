"""Outgoing HTTP to addresses that strangers name."""
