"""ComfyUI 0.3.64 and newer: `patch.record` listens to a model, `store` keeps what was heard."""
