"""The panels of the module: one class and one ``.ui`` file each."""
