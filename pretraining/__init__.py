"""Train the packaged base `pocket` from scratch: data, stages, quality measurement, model card."""
