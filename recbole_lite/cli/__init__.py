"""Command line: one file per subcommand; :mod:`~recbole_lite.cli.main` puts them together."""
