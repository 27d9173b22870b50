"""The adversarial step and its parts. Depends on torch and einops, on no trainer or model zoo."""
