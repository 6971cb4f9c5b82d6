"""Probes: everything that reads labels. Nothing that `fit` reaches imports this folder."""
