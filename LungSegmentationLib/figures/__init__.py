"""Every picture that the software makes."""
