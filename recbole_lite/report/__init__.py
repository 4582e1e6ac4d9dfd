"""Reports of runs, ablations and sweeps: tables, charts, HTML pages."""
