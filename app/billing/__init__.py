"""Prices, the credit ledger, subscriptions and payments."""
