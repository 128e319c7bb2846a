"""Whose variables are whose, and what updates them."""
