"""Trained models segment CTs of any orientation, size and spacing."""
