"""Recipes around the library: three runnable stages, and the tasks that the project measures itself on."""
