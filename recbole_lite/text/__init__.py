"""Item text in, one vector per item out: the Item LLM (paper, Section 4.2) and its cache."""
