"""The family of 2D U-Nets, its configuration, and the model file. Importing this package does not import torch."""
