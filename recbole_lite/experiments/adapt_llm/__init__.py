"""Adapt an Item LLM to the histories of a data set before its vectors are frozen (LLM2Rec)."""
