"""Adversarial training inside other trainers, one file per trainer. Import the one you need."""
