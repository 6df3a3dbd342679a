"""How the packaged base `pocket` is made: data, stages, measurement, card."""
