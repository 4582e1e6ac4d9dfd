"""What a run tells: tables and examples."""
