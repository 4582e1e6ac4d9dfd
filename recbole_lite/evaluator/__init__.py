"""Metrics, and the evaluator and collector that compute them for each user."""
