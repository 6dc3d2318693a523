"""ComfyUI 0.3.64 and newer: `patch.record` records a model, `store` keeps what was recorded."""
