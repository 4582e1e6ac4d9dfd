"""A finished run continued with new interactions and a grown catalogue."""
