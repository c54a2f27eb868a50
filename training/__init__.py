"""The pipeline: one stage, one file, one command; everything stands on `world_env`."""
