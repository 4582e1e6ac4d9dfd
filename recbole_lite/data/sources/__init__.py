"""Preparation of known data sets: from the official sources to atomic files on disk."""
