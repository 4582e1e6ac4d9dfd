"""Several runs and what they say together: ablations, sweeps, reproductions, comparisons."""
