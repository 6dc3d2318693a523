"""diffusers 0.32 and newer: `patch.record` listens to a pipeline for the length of a `with`."""
