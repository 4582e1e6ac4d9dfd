"""Data: from the official sources to windows of item ids."""
