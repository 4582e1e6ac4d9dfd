"""Baselines that generate the next item token by token: P5, POD, LightLM, TIGER."""
