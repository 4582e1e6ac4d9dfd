"""The paper's tables and figures, run again: ``recbole-lite reproduce``."""
