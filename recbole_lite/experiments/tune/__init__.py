"""Hyper-parameter sweeps on Ray Tune: validation selects, the test set is looked at once."""
