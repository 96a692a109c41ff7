"""Posterior samplers and classical baselines."""
