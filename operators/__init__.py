"""Forward models of CT and MR on whole volumes, their adjoints, noise and finite differences."""
