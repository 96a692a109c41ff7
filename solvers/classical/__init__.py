"""Classical reconstructions: the baselines that samplers are compared with."""
