"""Errors, files, log, paths, processes and other things that know nothing of recommendation."""
