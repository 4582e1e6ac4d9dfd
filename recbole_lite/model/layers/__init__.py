"""Parts that the models share: item tower, Recommendation LLM, pooling, dropout, losses."""
