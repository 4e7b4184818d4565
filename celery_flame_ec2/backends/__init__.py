"""Where runners come from: one module for each compute backend."""
