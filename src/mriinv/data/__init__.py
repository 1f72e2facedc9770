"""Real data in and out, masks, noise, simulation: plain functions."""
