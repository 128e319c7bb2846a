"""Where to cut a network, and how."""
