"""Models, one file each; layers/ are their parts, generative/ writes item ids as tokens."""
