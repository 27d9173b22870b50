"""The adversarial step and its parts. Knows torch and einops, and no trainer or model zoo."""
