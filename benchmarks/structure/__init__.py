"""How large the code is."""
