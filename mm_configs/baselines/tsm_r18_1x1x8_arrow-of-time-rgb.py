"""TSM with a ResNet-18 from scratch on real footage played forward, backward or frozen half-way."""

_base_ = ['./tsm_r18_1x1x8_ordered-digits-rgb.py', '../_base_/arrow_of_time.py']
