"""The suite: unit, conformance, integration, chaos, bench; each folder says how real it is."""
