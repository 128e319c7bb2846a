"""Interfaces: where a network is cut, and what crosses the cut."""
