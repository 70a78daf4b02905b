"""Any config's model, built without data, and made-up batches to feed it."""
