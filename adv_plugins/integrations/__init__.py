"""Adversarial training inside other trainers, one file a trainer, each imported by its user."""
