"""Families of world models behind one protocol."""
