"""Configuration: settings from files and the command line, their checks, names of models."""
