"""Text tower: item text in, one vector per item out (Item LLM, paper Section 4.2)."""
