"""Schema migrations; they travel with the package and are run by `mirrorpost migrate`."""
