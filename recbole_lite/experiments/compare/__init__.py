"""Comparison of finished runs by paired intervals over their common test users."""
