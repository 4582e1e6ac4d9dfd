"""LITE-LLM4Rec for RecBole."""
