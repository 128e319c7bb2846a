"""Networks as graphs of layers: read, rebuilt, stripped."""
